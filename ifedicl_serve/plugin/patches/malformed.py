"""What cannot be read under our key fails alone."""

import logging
from functools import wraps
from typing import Any

from ifedicl_serve.plugin.request import MALFORMED, TaskKey, TaskRequest

logger = logging.getLogger("vllm.ifedicl")


def replace_malformed_tasks() -> None:
    """Wrap `Request.from_engine_core_request` to make a malformed task request one for an artifact
    that does not exist.

    Upstream: it turns the front end's message into the scheduler's request, for every route into
    the engine (vllm/v1/request.py).
    Why: an exception here would leave an in-process engine waiting for the request for ever, and
    one in a worker would end the engine.
    Delete when vLLM lets a plugin say what of a request reaches the engine.
    """
    from vllm.v1.request import Request

    original = Request.from_engine_core_request.__func__
    if hasattr(original, "replaces_malformed_tasks"):
        return

    @wraps(original)
    def from_engine_core_request(cls: type[Request], request: Any, block_hasher: Any) -> Request:
        try:
            TaskRequest.of_request(request)
        except ValueError as error:
            logger.error("request %s: %s", request.request_id, error)
            replace_task(request, TaskRequest(TaskKey(MALFORMED)))
        return original(cls, request, block_hasher)

    from_engine_core_request.replaces_malformed_tasks = True  # type: ignore[attr-defined]
    Request.from_engine_core_request = classmethod(from_engine_core_request)


def replace_task(request: Any, task: TaskRequest) -> None:
    """Make a request of vLLM's carry another task."""
    if request.pooling_params is not None:
        request.pooling_params.extra_kwargs = task.extra_kwargs()
    else:
        request.sampling_params.extra_args |= task.extra_kwargs()
