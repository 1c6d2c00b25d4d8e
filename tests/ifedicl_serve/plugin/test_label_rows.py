"""Which scores a request gets, and how much memory tasks with many labels take."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ifedicl_serve.contract.spec import MAX_LABELS
from ifedicl_serve.plugin.label_rows import LabelRows, pool_size

HIDDEN, CPU = 8, torch.device("cpu")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of(**tasks):
    """Random rows of tasks that have so many."""
    return {name: random(count, HIDDEN, seed=count) for name, count in tasks.items()}


def pool_of(capacity, rows, at_once=None):
    """A pool into which nothing was loaded yet, and what it loads."""
    loaded = []

    def load(task):
        loaded.append(task)
        return rows.get(task)

    return LabelRows(capacity, HIDDEN, CPU, at_once or capacity, load), loaded


def score(pool, hidden, wanted):
    """With a request a readout."""
    return pool.scores(hidden, np.arange(len(wanted)), wanted)


def assert_scored(pool, rows, names, hidden=None, owners=None):
    """Each readout has the scores of its own task's rows, and -inf behind."""
    hidden = random(len(names), HIDDEN) if hidden is None else hidden
    owners = np.arange(len(names)) if owners is None else np.array(owners)
    scores = pool.scores(hidden, owners, [(name, len(rows[name])) for name in names])
    for owner, name, found in zip(owners, names, scores, strict=True):
        count = len(rows[name])
        torch.testing.assert_close(found[:count], rows[name] @ hidden[owner].float())
        assert (found[count:] == -torch.inf).all()


def test_every_request_gets_the_scores_of_its_own_task():
    rows = rows_of(a=3, b=5, c=2)
    pool, loaded = pool_of(20, rows)
    assert_scored(pool, rows, ["b", "a", "c", "b", "a"])
    assert_scored(pool, rows, ["c"])
    assert sorted(loaded) == ["a", "b", "c"]  # once


def test_a_request_gets_the_scores_of_many_tasks():
    """And its state is multiplied once by the rows of them all."""
    rows = rows_of(a=3, b=5, c=2)
    pool, _ = pool_of(20, rows)
    assert_scored(pool, rows, ["a", "b", "c", "b"], random(2, HIDDEN), owners=[0, 0, 0, 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_computed_in_float32(dtype):
    rows = rows_of(a=3)
    assert_scored(pool_of(20, rows)[0], rows, ["a", "a"], random(2, HIDDEN).to(dtype))


def test_requests_that_want_no_rows_get_none():
    pool, _ = pool_of(20, rows_of(a=3))
    scores = score(pool, random(3, HIDDEN), [(None, 0), ("a", 3), ("a", 0)])
    assert (scores[[0, 2]] == -torch.inf).all()
    assert scores[1].isfinite().all()


@pytest.mark.parametrize("wanted", [("lost", 2), ("a", 4), ("a", 2), (None, 3)])
def test_rows_that_are_not_there_or_another_number_are_nan(wanted):
    pool, _ = pool_of(20, rows_of(a=3))
    scores = score(pool, random(2, HIDDEN), [wanted, ("a", 3)])
    assert scores[0, : wanted[1]].isnan().all()
    assert (scores[0, wanted[1] :] == -torch.inf).all()
    assert scores[1, :3].isfinite().all()


def test_rows_that_could_not_be_loaded_are_not_asked_for_again_and_again():
    pool, loaded = pool_of(20, {})
    for _ in range(3):
        assert score(pool, random(1, HIDDEN), [("lost", 2)]).isnan().all()
    assert loaded == ["lost"]


def test_states_of_nan_have_scores_of_nan_and_no_other_request_has():
    rows = rows_of(a=3)
    hidden = random(2, HIDDEN)
    hidden[0] = torch.nan
    scores = score(pool_of(20, rows)[0], hidden, [("a", 3), ("a", 3)])
    assert scores[0].isnan().all() and scores[1].isfinite().all()


def test_a_batch_whose_rows_do_not_fit_on_the_device_is_scored_all_the_same():
    rows = rows_of(a=3, b=4, c=3, d=2)
    pool, loaded = pool_of(6, rows)
    for _ in range(2):
        assert_scored(pool, rows, ["d", "b", "a", "c", "b"])
    assert_scored(pool, rows, ["b"])
    assert sorted(loaded) == ["a", "b", "c", "d"]


def test_the_device_has_the_rows_that_were_used_last():
    rows = rows_of(a=3, b=3, c=4, d=2)
    pool, loaded = pool_of(6, rows)
    for names, held in [("ab", "ab"), ("a", "ab"), ("c", "c"), ("d", "cd"), ("ca", "c")]:
        assert_scored(pool, rows, list(names))
        assert set(pool._pooled) == set(held)
    assert sorted(loaded) == ["a", "b", "c", "d"]  # the host has them all


def test_what_the_host_remembers_is_bounded(monkeypatch):
    """Of tasks that come and go, and of names that no task has."""
    monkeypatch.setattr("ifedicl_serve.plugin.label_rows.HOST_BYTES", 10 * 4 * HIDDEN)
    rows = {number: random(3, HIDDEN, seed=number) for number in range(9)}
    pool, loaded = pool_of(6, rows)
    assert_scored(pool, rows, [*rows, *rows])
    assert set(pool._host) == {6, 7, 8} and pool._on_host == 9
    for number in range(40):
        score(pool, random(1, HIDDEN), [(f"lost{number}", 2)])
    assert len(pool._host) == 10 and not pool._pooled
    loaded.clear()
    assert_scored(pool, rows, [8, 0])
    assert loaded == [8, 0]


def test_many_tasks_with_the_most_labels_stay_within_the_memory_of_the_start(monkeypatch):
    """256 of them would be 4 GB on an 8B model. A batch brings no more together at once than it
    may."""
    import ifedicl_serve.plugin.label_rows as module

    together = []
    monkeypatch.setattr(
        module,
        "row_scores",
        lambda hidden, rows: together.append(len(rows)) or hidden.float() @ rows.T,
    )
    rows = {number: random(MAX_LABELS, HIDDEN, seed=number) for number in range(40)}
    pool, _ = pool_of(pool_size(256), rows, at_once=2 * MAX_LABELS)
    start = pool.nbytes, pool.pool.data_ptr()
    assert_scored(pool, rows, [*rows, *rows])
    assert (pool.nbytes, pool.pool.data_ptr()) == start
    assert pool.nbytes == 32 * 256 * HIDDEN * 4
    assert max(together) == 2 * MAX_LABELS and sum(together) == 40 * MAX_LABELS


def test_a_pool_has_room_for_one_task_with_the_most_labels():
    assert pool_size(1) == MAX_LABELS


@given(st.data())
def test_after_any_batches_each_readout_has_the_rows_of_its_own_task(data):
    """Also where device and host have room for few of them."""
    rows = {number: random(number, HIDDEN, seed=number) for number in range(1, 10)}
    pool, _ = pool_of(8, rows, at_once=data.draw(st.integers(1, 20)))
    pool.host_capacity = data.draw(st.integers(8, 30))
    for _ in range(data.draw(st.integers(1, 6))):
        names = data.draw(st.lists(st.sampled_from(sorted(rows)), min_size=1, max_size=8))
        owners = [data.draw(st.integers(0, 2)) for _ in names]
        assert_scored(pool, rows, names, random(3, HIDDEN), owners)
        assert len(set(pool._free)) + sum(map(len, pool._pooled.values())) == 8
        assert pool._on_host == sum(map(len, pool._host.values())) <= pool.host_capacity
