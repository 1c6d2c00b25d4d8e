"""Which slot each token reads, what a slot holds, and which task loses its own."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ifedicl_serve.contract.artifact import save_artifact
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.plugin.label_rows import LabelRows
from ifedicl_serve.plugin.request import TaskKey
from ifedicl_serve.plugin.slots import (
    FAILED_SLOT,
    IDENTITY_SLOT,
    RESERVED_SLOTS,
)
from tests.ifedicl_serve.factory import (
    HIDDEN,
    LAYERS,
    make_artifact,
    make_rung,
    make_spec,
)
from tests.ifedicl_serve.plugin.conftest import (
    MAX_TOKENS,
    assign,
    assign_tails,
    holds,
    holds_exactly,
    is_identity,
    make_tables,
)

# -- tokens


def test_a_new_table_is_the_identity_everywhere(tasks_dir):
    tables = make_tables(tasks_dir)
    free = range(RESERVED_SLOTS, RESERVED_SLOTS + 3)
    assert all(is_identity(tables, slot) for slot in (IDENTITY_SLOT, *free))
    assert tables.token_slots.tolist() == [IDENTITY_SLOT] * MAX_TOKENS


def test_every_token_points_at_the_slot_of_its_request(tasks_dir, digests):
    tables = make_tables(tasks_dir)
    one, none, two = assign(tables, (digests[0], 3), (None, 2), (digests[1], 1))
    assert none == IDENTITY_SLOT
    assert len({one, none, two}) == 3
    assert tables.token_slots[:6].tolist() == [one] * 3 + [none] * 2 + [two]


def test_the_tail_after_the_batch_is_the_identity(tasks_dir, digests):
    tables = make_tables(tasks_dir)
    assign(tables, (digests[0], 3))
    assert tables.token_slots[3:].tolist() == [IDENTITY_SLOT] * (MAX_TOKENS - 3)


def test_the_tail_that_the_last_batch_used_returns_to_the_identity(tasks_dir, digests):
    tables = make_tables(tasks_dir)
    assign(tables, (digests[0], MAX_TOKENS))
    (slot,) = assign(tables, (digests[0], 2))
    assert tables.token_slots.tolist() == [slot] * 2 + [IDENTITY_SLOT] * (MAX_TOKENS - 2)


def test_requests_of_one_task_share_a_slot(tasks_dir, digests):
    tables = make_tables(tasks_dir)
    one, two, three = assign(tables, (digests[0], 1), (digests[1], 1), (digests[0], 4))
    assert one == three != two


def test_a_request_without_tokens_in_this_batch_moves_no_other(tasks_dir, digests):
    tables = make_tables(tasks_dir)
    assign(tables, (digests[0], 0), (digests[1], 2))
    assert holds_exactly(tables, int(tables.token_slots[0]), tasks_dir / "task1")


# A prompt of 8 tokens of which the last 3 are adapted, and 2 more that it generates.
@pytest.mark.parametrize(
    ("computed", "tokens", "identity"),
    [(0, 8, 5), (0, 4, 4), (0, 5, 5), (4, 4, 1), (5, 3, 0), (6, 2, 0), (8, 1, 0), (0, 10, 5)],
)
def test_tokens_before_the_start_read_the_identity(tasks_dir, digests, computed, tokens, identity):
    """Whole, in chunks, behind a cached prefix, while generating, and computed once more."""
    tables = make_tables(tasks_dir)
    others = (digests[1], 0, 0, 2), (None, 0, 0, 1)
    before, tail, none = assign_tails(
        tables, others[0], (digests[0], 5, computed, tokens), others[1]
    )
    (slot,) = assign(tables, (digests[0], 1))
    assert tail == [IDENTITY_SLOT] * identity + [slot] * (tokens - identity)
    assert before == [before[0]] * 2 and before[0] not in (slot, IDENTITY_SLOT)
    assert none == [IDENTITY_SLOT]


def test_what_failed_fails_from_its_first_token_on(tasks_dir, digests):
    """Of an empty tail no token of the prompt would else show it."""
    tables = make_tables(tasks_dir)
    assert assign_tails(tables, ("0" * 64, 4, 0, 4)) == [[FAILED_SLOT] * 4]


def test_the_tensors_keep_their_addresses(tasks_dir, digests):
    tables = make_tables(tasks_dir, num_tasks=1)
    before = [t.data_ptr() for t in (tables.scale, tables.shift, tables.token_slots)]
    for digest in digests:
        assign(tables, (digest, 1))
    after = [t.data_ptr() for t in (tables.scale, tables.shift, tables.token_slots)]
    assert after == before


# -- what a slot holds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_slot_holds_the_folded_artifact(tasks_dir, digests, dtype):
    tables = make_tables(tasks_dir, dtype=dtype)
    slots = assign(tables, *((digest, 1) for digest in digests[:3]))
    for number, slot in enumerate(slots):
        assert holds_exactly(tables, slot, tasks_dir / f"task{number}")
    assert (tables.scale.dtype, tables.shift.dtype) == (torch.float32, dtype)


@pytest.mark.parametrize("width", [1, HIDDEN])
def test_a_scale_per_channel_and_one_per_site_are_held_alike(tasks_dir, width):
    spec = make_spec(name="channels")
    mask = adapted_mask(LAYERS, spec.layers, spec.sites)
    scale, shift = torch.ones(LAYERS, 2, width), torch.zeros(LAYERS, 2, HIDDEN)
    scale[mask], shift[mask] = torch.rand(4, width), torch.rand(4, HIDDEN)
    digest = save_artifact(spec, {"scale": scale, "shift": shift}, tasks_dir / "channels").digest
    tables = make_tables(tasks_dir)
    (slot,) = assign(tables, (digest, 1))
    assert torch.equal(tables.scale[:, :, slot], scale.expand(LAYERS, 2, HIDDEN))
    assert holds_exactly(tables, slot, tasks_dir / "channels")


def test_a_task_that_adapts_nothing_holds_the_identity(tasks_dir):
    tables, digest = make_tables(tasks_dir), make_head(tasks_dir / "head", 0)
    (slot,) = assign(tables, (digest, 1))
    assert slot not in (IDENTITY_SLOT, FAILED_SLOT)
    assert is_identity(tables, slot)


def make_head(folder, seed):
    """A task of label rows alone; its digest."""
    spec = make_spec(name=folder.name, layers=(), sites=())
    return save_artifact(spec, make_rung("head", spec, seed), folder).digest


def test_label_rows_that_a_slot_was_loaded_with_are_not_read_again(tasks_dir, digests):
    """And outlast it: they are kept for as long as they are used."""
    rows = LabelRows(4, HIDDEN, torch.device("cpu"), at_once=4, load=lambda task: None)
    tables = make_tables(tasks_dir, num_tasks=1, label_rows=rows)
    head = make_head(tasks_dir / "head", 0)
    for digest in (head, digests[0]):
        assign(tables, (digest, 1))
    wanted = [(TaskKey(head), 2), (TaskKey(digests[0]), 2)]
    scores = rows.scores(torch.ones(1, HIDDEN), np.zeros(2, dtype=np.int64), wanted)
    assert scores.isnan().any(dim=1).tolist() == [False, True]
    assert tables.nbytes == tables.scale.nbytes + tables.shift.nbytes + 4 * HIDDEN * 4


def test_where_nobody_scores_label_rows_none_are_kept(tasks_dir):
    tables, digest = make_tables(tasks_dir), make_head(tasks_dir / "head", 0)
    assign(tables, (digest, 1))
    assert holds(tables, digest)


def test_a_pipeline_rank_holds_its_own_layers(tasks_dir, digests):
    tables = make_tables(tasks_dir, layers=range(1, 3))
    (slot,) = assign(tables, (digests[0], 1))
    assert tables.shift.shape[0] == 2
    assert holds_exactly(tables, slot, tasks_dir / "task0")


def test_the_identity_slot_is_never_written(tasks_dir, digests):
    tables = make_tables(tasks_dir, num_tasks=1)
    for digest in digests:
        assert assign(tables, (digest, 1), (None, 1)) == [RESERVED_SLOTS, IDENTITY_SLOT]
    assert is_identity(tables, IDENTITY_SLOT)


# -- eviction


def resident(tables, digests):
    return [holds(tables, digest) for digest in digests]


def test_a_resident_artifact_is_not_read_again(tasks_dir, digests):
    tables = make_tables(tasks_dir)
    slots = assign(tables, (digests[0], 1))
    shutil.rmtree(tasks_dir / "task0")
    assert assign(tables, (digests[0], 1)) == slots
    assert holds(tables, digests[0])


def test_the_least_recently_used_artifact_is_evicted(tasks_dir, digests):
    tables = make_tables(tasks_dir, num_tasks=2)
    assign(tables, (digests[0], 1))
    assign(tables, (digests[1], 1))
    assign(tables, (digests[0], 1))
    assign(tables, (digests[2], 1))
    assert resident(tables, digests) == [True, False, True, False]


def test_a_new_artifact_evicts_none_of_its_own_batch(tasks_dir, digests):
    tables = make_tables(tasks_dir, num_tasks=2)
    assign(tables, (digests[0], 1), (digests[1], 1))
    slots = assign(tables, (digests[2], 1), (digests[0], 1))  # 0 is the oldest, yet in the batch
    assert resident(tables, digests) == [True, False, True, False]
    assert holds_exactly(tables, slots[0], tasks_dir / "task2")
    assert holds_exactly(tables, slots[1], tasks_dir / "task0")


def test_an_evicted_artifact_is_loaded_again(tasks_dir, digests):
    tables = make_tables(tasks_dir, num_tasks=1)
    for number in (0, 1, 0):
        (slot,) = assign(tables, (digests[number], 1))
        assert holds_exactly(tables, slot, tasks_dir / f"task{number}")
    assert resident(tables, digests) == [True, False, False, False]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Six artifacts that no test changes."""
    folder = tmp_path_factory.mktemp("tasks")
    make = {n: make_artifact(folder / f"task{n}", seed=n, name=f"task{n}") for n in range(6)}
    return folder, {number: artifact.digest for number, artifact in make.items()}


@settings(max_examples=30)
@given(
    batches=st.lists(
        st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=8
    )
)
def test_after_any_batches_each_token_reads_its_own_task(many, batches):
    folder, digests = many
    tables = make_tables(folder, num_tasks=3)
    for batch in batches:
        slots = assign(tables, *((digests.get(number), 2) for number in batch))
        for number, slot in zip(batch, slots, strict=True):
            if number is None:
                assert slot == IDENTITY_SLOT
            else:
                assert holds_exactly(tables, slot, folder / f"task{number}")
        assert is_identity(tables, IDENTITY_SLOT)
