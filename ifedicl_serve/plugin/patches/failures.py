"""A request that generates under a task that could not be loaded ends with an error.

Its logits are NaN (`slots`), and vLLM counts NaN per request (`nan_counts`). Pooling requests need
none of this: their scores are NaN.
"""

import logging
from functools import wraps
from typing import Any

from ifedicl_serve.plugin.request import TaskRequest

logger = logging.getLogger("vllm.ifedicl")


def end_failed_generations() -> None:
    """Wrap `Scheduler.update_from_output` to end task requests whose logits have NaN.

    Upstream: it hands the sampled tokens to their requests (vllm/v1/core/sched/scheduler.py), and
    then ends those in `grammar_compile_error_reqs` and `encoder_cache_mismatch_reqs` with an error.
    Why: vLLM only counts NaN; a worker has no way to fail one request, and what it sampled from
    NaN must not be taken for an answer.
    Delete when a model runner's output can name requests that failed.
    """
    from vllm.v1.core.sched.scheduler import Scheduler

    original = Scheduler.update_from_output
    if hasattr(original, "ends_failed_generations"):
        return

    @wraps(original)
    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        for request_id in failed_requests(self.requests, model_runner_output):
            row = model_runner_output.req_id_to_index[request_id]
            model_runner_output.sampled_token_ids[row] = []
            # A set in 0.32 and 0.33. The other became a dict of `RequestError`, which 0.33's front
            # end raises; named here, a request ends with finish reason "error" in both.
            self.encoder_cache_mismatch_reqs.add(request_id)
            logger.error("request %s: its task could not be loaded", request_id)
        return original(self, scheduler_output, model_runner_output)

    update_from_output.ends_failed_generations = True  # type: ignore[attr-defined]
    Scheduler.update_from_output = update_from_output


def failed_requests(requests: dict[str, Any], model_runner_output: Any) -> list[str]:
    """The running requests that name a task and have NaN in their logits."""
    counts = model_runner_output.num_nans_in_logits or {}
    return [
        request_id
        for request_id, count in counts.items()
        if count and request_id in requests and TaskRequest.of_request(requests[request_id]).task
    ]
