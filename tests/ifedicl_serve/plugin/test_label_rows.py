"""Which scores a request gets, and how much memory tasks with many labels take."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ifedicl_serve.contract.spec import MAX_LABELS
from ifedicl_serve.plugin.label_rows import LabelRows, pool_size

HIDDEN, CPU = 8, torch.device("cpu")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pool_of(capacity, **tasks):
    """A pool into which each task with so many rows was put, and the rows."""
    pool = LabelRows(capacity, HIDDEN, CPU, at_once=capacity)
    rows = {name: random(count, HIDDEN, seed=count) for name, count in tasks.items()}
    for name, own in rows.items():
        pool.put(name, own)
    return pool, rows


def assert_scored(pool, rows, names, hidden=None):
    """Each request has the scores of its own task's rows, and -inf behind."""
    hidden = random(len(names), HIDDEN) if hidden is None else hidden
    scores = pool.scores(hidden, [(name, len(rows[name])) for name in names])
    for state, name, found in zip(hidden, names, scores, strict=True):
        count = len(rows[name])
        torch.testing.assert_close(found[:count], rows[name] @ state.float())
        assert (found[count:] == -torch.inf).all()


def test_every_request_gets_the_scores_of_its_own_task():
    pool, rows = pool_of(20, a=3, b=5, c=2)
    assert_scored(pool, rows, ["b", "a", "c", "b", "a"])
    assert_scored(pool, rows, ["c"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_computed_in_float32(dtype):
    pool, rows = pool_of(20, a=3)
    assert_scored(pool, rows, ["a", "a"], random(2, HIDDEN).to(dtype))


def test_requests_that_want_no_rows_get_none():
    pool, rows = pool_of(20, a=3)
    scores = pool.scores(random(3, HIDDEN), [(None, 0), ("a", 3), ("a", 0)])
    assert (scores[[0, 2]] == -torch.inf).all()
    assert scores[1].isfinite().all()


@pytest.mark.parametrize("wanted", [("lost", 2), ("a", 4), ("a", 2), (None, 3)])
def test_rows_that_are_not_there_or_another_number_are_nan(wanted):
    pool, rows = pool_of(20, a=3)
    scores = pool.scores(random(2, HIDDEN), [wanted, ("a", 3)])
    assert scores[0, : wanted[1]].isnan().all()
    assert (scores[0, wanted[1] :] == -torch.inf).all()
    assert scores[1, :3].isfinite().all()


def test_states_of_nan_have_scores_of_nan_and_no_other_request_has():
    pool, rows = pool_of(20, a=3)
    hidden = random(2, HIDDEN)
    hidden[0] = torch.nan
    scores = pool.scores(hidden, [("a", 3), ("a", 3)])
    assert scores[0].isnan().all() and scores[1].isfinite().all()


def test_a_task_that_finds_too_few_rows_free_is_scored_all_the_same():
    pool, rows = pool_of(6, a=3, b=4, c=3, d=2)
    assert_scored(pool, rows, ["d", "b", "a", "c", "b"])
    assert_scored(pool, rows, ["b"])


def test_a_full_pool_has_room_again_when_a_task_is_dropped():
    pool, rows = pool_of(6, a=3, b=3)
    for name in "ab":
        pool.drop(name)
        assert pool.scores(random(1, HIDDEN), [(name, 3)]).isnan().all()
    rows["c"] = random(6, HIDDEN, seed=9)
    pool.put("c", rows["c"])
    assert_scored(pool, rows, ["c"])
    assert not pool._spilled


def test_dropped_tasks_take_their_rows_on_the_host_along():
    pool, _ = pool_of(2, a=3)
    pool.drop("a")
    pool.drop("never there")
    assert not pool._spilled
    assert pool.scores(random(1, HIDDEN), [("a", 3)]).isnan().all()


def test_many_tasks_with_the_most_labels_stay_within_the_memory_of_the_start(monkeypatch):
    """256 slots of them would be 4 GB on an 8B model. A batch brings no more together at once than
    it may."""
    import ifedicl_serve.plugin.label_rows as module

    together = []
    monkeypatch.setattr(
        module,
        "row_scores",
        lambda hidden, rows: together.append(len(rows)) or hidden.float() @ rows.T,
    )
    pool = LabelRows(pool_size(256), HIDDEN, CPU, at_once=2 * MAX_LABELS)
    start = pool.nbytes, pool.pool.data_ptr()
    rows = {number: random(MAX_LABELS, HIDDEN, seed=number) for number in range(40)}
    for number, own in rows.items():
        pool.put(number, own)
    assert_scored(pool, rows, [*rows, *rows])
    assert (pool.nbytes, pool.pool.data_ptr()) == start
    assert pool.nbytes == 32 * 256 * HIDDEN * 4
    assert max(together) == 2 * MAX_LABELS and sum(together) == 40 * MAX_LABELS


def test_a_pool_has_room_for_one_task_with_the_most_labels():
    assert pool_size(1) == MAX_LABELS


@given(st.data())
def test_after_any_puts_and_drops_each_task_has_its_own_rows(data):
    pool, rows = LabelRows(8, HIDDEN, CPU, at_once=8), {}
    for step in range(data.draw(st.integers(1, 8))):
        if rows and data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(rows)))
            pool.drop(name)
            del rows[name]
        else:
            rows[step] = random(data.draw(st.integers(2, 10)), HIDDEN, seed=step)
            pool.put(step, rows[step])
        if rows:
            assert_scored(pool, rows, sorted(rows))
