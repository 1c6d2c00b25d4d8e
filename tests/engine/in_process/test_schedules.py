"""What vLLM's scheduler may do to a request, with the task kept: evict, chunk, preempt, and
schedule the next batch before it has seen the answers of this one."""

import numpy as np

from tests.engine.conftest import (
    NUM_TASKS,
    engine,
    mixed_requests,
    random_prompts,
    request,
    scores,
)

CHOICES = (300, 301, 302, 303, 304)
# float32 matrix products round differently in a batch of another size; nothing else may differ.
TOLERANCE = 1e-5


def assert_same(ours, others) -> None:
    np.testing.assert_allclose(np.concatenate(ours), np.concatenate(others), atol=TOLERANCE)


def test_more_tasks_than_slots_are_loaded_and_evicted_as_needed(models, tasks):
    requests = mixed_requests(tasks, random_prompts(1) * NUM_TASKS, CHOICES)
    with engine(models["llama"], tasks[0], max_num_seqs=4) as llm:
        first = scores(llm, requests)
        second = scores(llm, list(reversed(requests)))[::-1]
    assert_same(first, second)


def test_chunked_prefill_equals_unchunked(models, tasks):
    requests = mixed_requests(tasks, random_prompts(8, low=300, high=900), CHOICES)
    with engine(models["llama"], tasks[0], max_num_batched_tokens=8192) as llm:
        whole = scores(llm, requests)
    with engine(models["llama"], tasks[0], max_num_batched_tokens=128) as llm:
        chunked = scores(llm, requests)
    assert_same(chunked, whole)


def test_preemption_and_recompute_keep_the_task(models, tasks):
    """33 prompts of 300 to 900 tokens in a cache of 64 blocks of 32: the scheduler preempts."""
    folder, _ = tasks
    requests = mixed_requests(tasks, random_prompts(NUM_TASKS, low=300, high=900), CHOICES)
    options = dict(
        max_num_batched_tokens=256,
        enable_prefix_caching=False,
        scheduler_reserve_full_isl=False,  # else prefills wait until they fit whole
        long_prefill_token_threshold=32,  # so that eight prefills advance side by side
    )
    with engine(models["llama"], folder, **options) as llm:
        roomy = scores(llm, requests)
    with engine(
        models["llama"], folder, num_gpu_blocks_override=64, disable_log_stats=False, **options
    ) as llm:
        tight = scores(llm, requests)
        preemptions = sum(
            metric.value for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions"
        )
    assert preemptions > 0
    assert_same(tight, roomy)


def test_async_scheduling_keeps_every_task(models, case, monkeypatch):
    """vLLM's CPU platform turns it off, so it is turned on again behind its back: batches are then
    queued two deep. Their computation cannot overlap on a CPU; on a GPU stream order keeps it."""
    from vllm.platforms.cpu import CpuPlatform

    settled = CpuPlatform.check_and_update_config

    def asynchronous(vllm_config) -> None:
        settled(vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", staticmethod(asynchronous))
    asked = [request(*each) for each in case.requests(*case.digests, None)]
    options = dict(max_num_batched_tokens=64, max_num_seqs=4, enable_prefix_caching=True)
    with engine(models["llama"], case.folder, **options) as llm:
        assert llm.llm_engine.engine_core.engine_core.batch_queue_size == 2
        cold, warm = (np.concatenate(scores(llm, asked)) for _ in range(2))
    expected = case.answers(*case.digests, None)
    np.testing.assert_allclose(cold, expected, atol=1e-4)
    np.testing.assert_allclose(warm, expected, atol=1e-4)
