"""Many tasks in one engine: mixed batches, isolation, faults."""

import shutil

import numpy as np
import pytest

from bench.common.random_tasks import random_task
from tests.engine.conftest import (
    NUM_TASKS,
    engine,
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
    prompts = random_prompts(64)
    requests = [
        request(prompt, tasks[1][index % NUM_TASKS], CHOICES)
        for index, prompt in enumerate(prompts)
    ]
    together = scores(fresh, requests)
    fresh.reset_prefix_cache()
    alone = [scores(fresh, [single])[0] for single in requests]
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)


def test_distinct_tasks_give_distinct_scores(fresh, tasks):
    prompt = random_prompts(1)[0]
    results = scores(fresh, [request(prompt, digest, CHOICES) for digest in tasks[1]])
    assert len({tuple(result.round(4)) for result in results}) == NUM_TASKS


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
