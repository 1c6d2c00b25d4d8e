"""Many tasks in one engine: mixed batches, isolation, faults."""

import shutil

import numpy as np
import pytest

from bench.common.random_tasks import random_task
from tests.engine.conftest import (
    NUM_TASKS,
    engine,
    mixed_requests,
    random_prompts,
    request,
    run,
    scores,
)

CHOICES = (300, 301, 302, 303, 304)
# float32 matrix products round differently in a batch of another size; nothing else may differ.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def llm(models, tasks):
    with engine(models["llama"], tasks[0], enable_prefix_caching=True) as llm:
        yield llm


@pytest.fixture
def fresh(llm):
    """The engine with an empty prefix cache."""
    llm.reset_prefix_cache()
    return llm


def test_a_mixed_batch_of_64_requests_over_33_tasks_equals_each_request_alone(fresh, tasks):
    """Of four rungs, adapted whole or at their end, and some by no task."""
    requests = mixed_requests(tasks, random_prompts(64), CHOICES)
    together = scores(fresh, requests)
    fresh.reset_prefix_cache()
    alone = [scores(fresh, [single])[0] for single in requests]
    assert {len(answer) for answer in together} == {5, 9}
    np.testing.assert_allclose(np.concatenate(together), np.concatenate(alone), atol=TOLERANCE)


def test_distinct_tasks_give_distinct_scores(fresh, tasks):
    prompt = random_prompts(1)[0]
    results = scores(fresh, [request(prompt, digest, CHOICES) for digest in tasks[1]])
    unadapted = NUM_TASKS // 4 - 1  # tasks of label rows alone adapt nothing
    assert len({tuple(result.round(4)) for result in results}) == NUM_TASKS - unadapted


def test_each_request_may_score_its_own_number_of_labels(fresh, tasks):
    prompt = random_prompts(1)[0]
    few, many = scores(
        fresh,
        [request(prompt, tasks[1][0], CHOICES[:2]), request(prompt, tasks[1][0], CHOICES)],
    )
    assert few.shape == (2,) and many.shape == (5,)
    np.testing.assert_allclose([np.exp(few).sum(), np.exp(many).sum()], 1, atol=1e-6)
    np.testing.assert_allclose(few[0] - few[1], many[0] - many[1], atol=TOLERANCE)


def test_tasks_never_share_cached_blocks_by_any_route(fresh, tasks):
    """The requests set no cache salt, as a raw engine request would not; the engine does."""
    prompt = random_prompts(1, low=200, high=201)[0]
    first, second = tasks[1][:2]
    cold = run(fresh, [request(prompt, first, CHOICES)])[0]
    other_task = run(fresh, [request(prompt, second, CHOICES)])[0]
    no_task = run(fresh, [request(prompt, None, CHOICES)])[0]
    same_task = run(fresh, [request(prompt, first, CHOICES)])[0]
    assert cold.num_cached_tokens == 0
    assert other_task.num_cached_tokens == 0
    assert no_task.num_cached_tokens == 0
    assert same_task.num_cached_tokens == 192  # 6 full blocks of 32
    np.testing.assert_allclose(same_task.outputs.data, cold.outputs.data, atol=TOLERANCE)


def test_equal_prefixes_share_blocks_up_to_where_the_first_of_them_is_adapted(fresh, tasks):
    """A text, and one that goes on where the other's prompt has its tail."""
    (longer,) = random_prompts(1, low=260, high=261)
    digest, tail = tasks[1][0], 10
    short = request(longer[:200], digest, CHOICES, tail)
    long = request(longer, digest, CHOICES, tail)
    cold = run(fresh, [long])[0]
    fresh.reset_prefix_cache()
    first, second = run(fresh, [short])[0], run(fresh, [long])[0]
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 160)  # 190 are unadapted
    np.testing.assert_allclose(second.outputs.data, cold.outputs.data, atol=TOLERANCE)
    # A label's further tokens are behind the same text, and so is its KV.
    inner = request([*longer, 300], digest, CHOICES, tail + 1)
    warm = run(fresh, [inner])[0]
    assert warm.num_cached_tokens == 256
    fresh.reset_prefix_cache()
    np.testing.assert_allclose(
        warm.outputs.data, run(fresh, [inner])[0].outputs.data, atol=TOLERANCE
    )


@pytest.mark.parametrize("tail", [None, 3, 0])
def test_a_lost_task_of_any_extent_has_neither_label_nor_row_scores(fresh, tasks, tail):
    """Its last 0 tokens are those of a task whose prompts end with the text."""
    prompt = random_prompts(1)[0]
    asked = [request(prompt, digest, CHOICES, tail, 4) for digest in (tasks[1][2], "0" * 64)]
    served, lost = scores(fresh, asked)
    assert np.isfinite(served).all() and served.shape == (9,)
    assert np.isnan(lost).all()


@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_rows_that_a_task_has_not_are_nan_and_harm_nobody(fresh, tasks, rows):
    prompt = random_prompts(1)[0]
    digests = tasks[1][2], tasks[1][0]  # four rows, none
    asked = [request(prompt, digest, CHOICES, None, rows) for digest in digests]
    *refused, served = scores(fresh, [*asked, request(prompt, digests[0], CHOICES, None, 4)])
    for answer in refused:
        assert np.isfinite(answer[:5]).all()
        assert np.isnan(answer[5:]).all() and len(answer) == 5 + rows
    assert np.isfinite(served).all()


def test_a_batch_in_which_nobody_wants_rows_is_scored_bit_for_bit_as_beside_one(fresh, tasks):
    prompts = random_prompts(4)
    plain = [request(prompt, tasks[1][2], CHOICES) for prompt in prompts]
    rows = [request(prompt, tasks[1][2], CHOICES, None, 4) for prompt in prompts]
    without = scores(fresh, plain)
    fresh.reset_prefix_cache()
    beside = scores(fresh, rows)
    for one, other in zip(without, beside, strict=True):
        np.testing.assert_array_equal(one, other[:5])


def test_a_client_salt_still_separates_requests_of_one_task(fresh, tasks):
    prompt, params = request(random_prompts(1, low=200, high=201)[0], tasks[1][0], CHOICES)
    cached = [
        run(fresh, [({**prompt, "cache_salt": salt}, params)])[0].num_cached_tokens
        for salt in ("alice", "bob", "alice")
    ]
    assert cached == [0, 0, 192]


def test_an_unavailable_artifact_fails_its_own_requests_only(fresh, tasks):
    prompt = random_prompts(1)[0]
    good, missing, again = scores(
        fresh,
        [request(prompt, digest, CHOICES) for digest in (tasks[1][0], "0" * 64, tasks[1][0])],
    )
    assert np.isnan(missing).all()
    np.testing.assert_array_equal(good, again)
    assert np.isfinite(good).all()


def test_a_malformed_task_request_fails_alone(fresh, tasks):
    from vllm import PoolingParams

    prompt, good = request(random_prompts(1)[0], tasks[1][0], CHOICES)
    bad = PoolingParams(task="classify", extra_kwargs={"ifedicl": {"digest": 7}})
    params = [bad, PoolingParams(task="classify", extra_kwargs=good.extra_kwargs())]
    outputs = fresh.encode([prompt, prompt], params, pooling_task="classify", use_tqdm=False)
    failed, served = (output.outputs.data for output in outputs)
    assert failed.isnan().all() and served.isfinite().all()


def test_a_label_token_outside_the_vocabulary_is_never_scored(fresh, tasks):
    outside = fresh.model_config.get_vocab_size() + 1
    prompt = random_prompts(1)[0]
    assert np.isnan(scores(fresh, [request(prompt, tasks[1][0], (300, outside))])[0]).all()


def test_an_artifact_added_before_its_first_request_is_found(fresh, models, tasks):
    folder, _ = tasks
    prompt = random_prompts(1)[0]
    scores(fresh, [request(prompt, tasks[1][0], CHOICES)])  # the folder has been looked at
    late = random_task(models["llama"], folder / "late", seed=99)
    found = scores(fresh, [request(prompt, late.digest, CHOICES)])[0]
    fresh.reset_prefix_cache()
    np.testing.assert_allclose(
        found, scores(fresh, [request(prompt, late.digest, CHOICES)])[0], atol=TOLERANCE
    )


def test_a_task_that_failed_once_stays_unavailable(fresh, models, tasks, tmp_path):
    """Blocks computed without it are cached under its salt; they must not meet adapted ones."""
    folder, _ = tasks
    lost = random_task(models["llama"], tmp_path / "lost", seed=98)
    prompt = random_prompts(1, low=200, high=201)[0]
    assert np.isnan(scores(fresh, [request(prompt, lost.digest, CHOICES)])[0]).all()
    shutil.copytree(tmp_path / "lost", folder / "lost")
    assert np.isnan(scores(fresh, [request(prompt, lost.digest, CHOICES)])[0]).all()
