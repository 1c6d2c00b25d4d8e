"""Artifacts that cannot be loaded, versions that were replaced, and what is counted."""

import shutil

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import REGISTRY

import ifedicl_serve.plugin.artifacts
from ifedicl_serve.contract.artifact import VECTORS_FILE, load_artifact, save_artifact
from ifedicl_serve.contract.injection import LAMBDA
from ifedicl_serve.contract.signing import write_signature
from ifedicl_serve.plugin.request import TaskKey
from ifedicl_serve.plugin.slots import (
    FAILED_SLOT,
    IDENTITY_SLOT,
    RESERVED_SLOTS,
)
from tests.ifedicl_serve.factory import (
    HIDDEN,
    LAYERS,
    MODEL,
    make_artifact,
    make_spec,
    make_vectors,
)
from tests.ifedicl_serve.keys import trusting
from tests.ifedicl_serve.plugin.conftest import (
    assign,
    holds,
    holds_exactly,
    is_identity,
    make_tables,
)

# -- artifacts that cannot be loaded


def assert_unavailable(tables, digest, good):
    """Its tokens read the slot that gives no answer; the good one of the batch is served."""
    bad_slot, good_slot = assign(tables, (digest, 1), (good, 1))
    assert bad_slot == FAILED_SLOT
    assert not holds(tables, digest)
    assert holds(tables, good)
    assert good_slot >= RESERVED_SLOTS
    assert is_identity(tables, IDENTITY_SLOT)


def test_the_slot_of_failures_is_the_identity_up_to_the_very_last_site(tasks_dir):
    """So that the cached KV of its tokens is finite, and nothing comes of their last states."""
    tables = make_tables(tasks_dir)
    shift = tables.shift[:, :, FAILED_SLOT]
    assert shift[-1, -1].isnan().all()
    assert (shift.flatten(0, 1)[:-1] == 0).all()
    assert (tables.scale[:, :, FAILED_SLOT] == 1).all()


def test_only_the_last_pipeline_rank_makes_failures_known(tasks_dir):
    """NaN from an earlier one would enter the KV cache of the next."""
    assert make_tables(tasks_dir, layers=range(0, 2)).shift.isfinite().all()


def test_an_unknown_artifact_has_no_slot(tasks_dir, digests, logged):
    assert_unavailable(make_tables(tasks_dir), "0" * 64, digests[0])
    told = "task 0000000000000000 is unavailable until its folder changes: no artifact"
    assert told in logged.text


def test_a_damaged_artifact_has_no_slot(tasks_dir, digests, logged):
    (tasks_dir / "task1" / VECTORS_FILE).write_bytes(b"")
    assert_unavailable(make_tables(tasks_dir), digests[1], digests[0])
    assert "content does not match the SHA-256 in task.json" in logged.text


def test_a_damaged_copy_of_an_artifact_harms_no_other(tasks_dir, digests):
    """Whatever its name, as folders are looked at in the order of names."""
    for name in ("a copy", "z copy"):
        shutil.copytree(tasks_dir / "task1", tasks_dir / name)
        (tasks_dir / name / VECTORS_FILE).write_bytes(b"")
    tables = make_tables(tasks_dir)
    (slot,) = assign(tables, (digests[1], 1))
    assert holds_exactly(tables, slot, tasks_dir / "task1")


def test_an_artifact_that_no_trusted_key_signed_has_no_slot(tasks_dir, digests, logged):
    key = Ed25519PrivateKey.generate()
    write_signature(tasks_dir / "task0", digests[0], key)
    write_signature(tasks_dir / "task1", digests[1], Ed25519PrivateKey.generate())
    for digest in digests[1:3]:
        assert_unavailable(make_tables(tasks_dir, trusted=trusting(key)), digest, digests[0])
    assert "no signature of this task by a trusted key" in logged.text
    assert "not signed, and this server serves signed tasks only" in logged.text


def test_an_artifact_of_another_model_has_no_slot(tasks_dir, digests, logged):
    other = MODEL.model_copy(update={"config_digest": "e" * 64})
    digest = make_artifact(tasks_dir / "other", model=other).digest
    assert_unavailable(make_tables(tasks_dir), digest, digests[0])
    assert "calibrated on another model" in logged.text


@pytest.mark.parametrize(
    "shape", [{"num_layers": LAYERS - 1, "layers": (0,)}, {"hidden_size": 1}, {"hidden_size": 9}]
)
def test_an_artifact_that_lies_about_its_shape_has_no_slot(tasks_dir, digests, shape):
    """Its digests of the model are right, so only the tables can tell; a hidden size of 1
    would even broadcast."""
    digest = make_artifact(tasks_dir / "lies", **shape).digest
    assert_unavailable(make_tables(tasks_dir), digest, digests[0])


@pytest.mark.parametrize(
    ("dtype", "held", "overflowing"),
    [(torch.float16, 6e4, 7e4), (torch.bfloat16, 3.38e38, 3.4e38)],
)
def test_an_artifact_that_overflows_the_dtype_has_no_slot(
    tasks_dir, digests, logged, dtype, held, overflowing
):
    tensors = make_vectors(make_spec())
    tensors["coefficients"][-1, 0, LAMBDA] = 1
    for name, value in (("held", held), ("overflows", overflowing)):
        tensors["context_vector"][-1, 0, 0] = value
        save_artifact(make_spec(name), tensors, tasks_dir / name)
    tables = make_tables(tasks_dir, dtype=dtype)
    assert_unavailable(tables, load_artifact(tasks_dir / "overflows").digest, digests[0])
    assert "where it has those) goes up to" in logged.text
    (slot,) = assign(tables, (load_artifact(tasks_dir / "held").digest, 1))
    assert holds_exactly(tables, slot, tasks_dir / "held")


def test_an_artifact_that_makes_a_defect_show_has_no_slot(tasks_dir, digests, logged, monkeypatch):
    """Raised in a step of the engine, an error of any kind ends it."""
    load = ifedicl_serve.plugin.artifacts.load_artifact

    def load_but_one(folder, *others):
        return 1 / 0 if folder.name == "task1" else load(folder, *others)

    monkeypatch.setattr("ifedicl_serve.plugin.artifacts.load_artifact", load_but_one)
    assert_unavailable(make_tables(tasks_dir), digests[1], digests[0])
    assert "division by zero" in logged.text
    assert "Traceback" in logged.text


def test_a_worker_tells_its_memory(tasks_dir, digests):
    assign(make_tables(tasks_dir), (digests[0], 1))
    memory = REGISTRY.get_sample_value("ifedicl:process_memory_bytes", {"process": "worker"})
    assert 10 < memory / 2**20 < 1 << 20


def test_failures_take_no_slot(tasks_dir, digests):
    make_artifact(tasks_dir / "lies", hidden_size=9)
    lies = load_artifact(tasks_dir / "lies").digest
    tables = make_tables(tasks_dir, num_tasks=1)
    for number in range(3):
        assign(tables, (f"{number}" * 64, 1), (lies, 1))
    (slot,) = assign(tables, (digests[0], 1))
    assert holds_exactly(tables, slot, tasks_dir / "task0")


def test_an_artifact_that_failed_once_returns_as_another_generation(tasks_dir, digests):
    """Unadapted KV may be cached under the first one's salt, so nothing adapted may meet it."""
    tables = make_tables(tasks_dir)
    first, second = TaskKey(digests[0], "1"), TaskKey(digests[0], "2")
    shutil.move(tasks_dir / "task0", tasks_dir / ".away")
    assert assign(tables, (first, 1)) == [FAILED_SLOT]
    shutil.move(tasks_dir / ".away", tasks_dir / "task0")
    slots = assign(tables, (first, 1), (second, 1))
    assert slots[0] == FAILED_SLOT
    assert holds_exactly(tables, slots[1], tasks_dir / "task0")
    assert not holds(tables, first)
    assert holds(tables, second)


def test_a_request_that_failed_stays_failed_when_its_artifact_loads_before_it_ends(
    tasks_dir, digests
):
    """A chunk of its prompt was unadapted."""
    tables = make_tables(tasks_dir)
    shutil.move(tasks_dir / "task0", tasks_dir / ".away")
    assign(tables, (TaskKey(digests[0], "1"), 1))
    shutil.move(tasks_dir / ".away", tasks_dir / "task0")
    assign(tables, (TaskKey(digests[0], "2"), 1))
    assert assign(tables, (TaskKey(digests[0], "1"), 1)) == [FAILED_SLOT]
    assert not holds(tables, TaskKey(digests[0], "1"))


def test_failures_beyond_what_can_be_remembered_let_nothing_load_that_may_have_failed(
    tasks_dir, digests, logged, monkeypatch
):
    """Forgotten, a task that failed would later be loaded, and meet its unadapted KV."""
    monkeypatch.setattr("ifedicl_serve.plugin.slots.MAX_FAILED", 2)
    tables = make_tables(tasks_dir)
    assign(tables, (digests[0], 1))
    shutil.move(tasks_dir / "task1", tasks_dir / ".away")
    assert assign(tables, (digests[1], 1), ("0" * 64, 1)) == [FAILED_SLOT] * 2
    shutil.move(tasks_dir / ".away", tasks_dir / "task1")
    resident, *others = assign(tables, *((digest, 1) for digest in (*digests[:3], "1" * 64)))
    assert holds_exactly(tables, resident, tasks_dir / "task0")
    assert others == [FAILED_SLOT] * 3
    assert f"task {digests[2][:16]} is not loaded: 2 others failed before" in logged.text


def test_a_version_that_was_replaced_before_it_was_loaded_fails_alone(tasks_dir, digests):
    tables = make_tables(tasks_dir)
    new = make_artifact(tasks_dir / "task0", seed=9, name="task0").digest
    old_slot, new_slot = assign(tables, (digests[0], 1), (new, 1))
    assert old_slot == FAILED_SLOT
    assert holds_exactly(tables, new_slot, tasks_dir / "task0")


def test_a_version_that_was_replaced_after_it_was_loaded_still_serves(tasks_dir, digests):
    tables = make_tables(tasks_dir)
    slot = assign(tables, (digests[0], 1))
    new = make_artifact(tasks_dir / "task0", seed=9, name="task0").digest
    both = assign(tables, (digests[0], 1), (new, 1))
    assert both[0] == slot[0] != both[1]


def test_the_log_says_how_many_slots_there_are_and_their_memory(tasks_dir, logged):
    tables = make_tables(tasks_dir, num_tasks=64)
    assert tables.nbytes == LAYERS * 2 * (RESERVED_SLOTS + 64) * 2 * HIDDEN * 4
    assert "Slots for 64 resident tasks, 0.0 MiB" in logged.text


def test_loads_evictions_and_failures_are_counted(tasks_dir, digests):
    def counted():
        return {
            name: REGISTRY.get_sample_value(f"ifedicl:{name}")
            for name in (
                "task_queries_total",
                "task_loads_total",
                "task_evictions_total",
                "task_load_failures_total",
            )
        }

    tables = make_tables(tasks_dir, num_tasks=2)
    before = counted()
    assign(tables, (digests[0], 1), (digests[1], 1), (digests[0], 1), (None, 1))
    assign(tables, (digests[0], 1), (digests[2], 1))
    assign(tables, ("0" * 64, 1))
    gained = [after - before[name] for name, after in counted().items()]
    assert gained == [5, 3, 1, 1]
    assert REGISTRY.get_sample_value("ifedicl:resident_tasks") == 2
