"""Who names a task to the engine: our own code alone, whatever callers send."""

from functools import wraps
from typing import Any

from api.classify.engine import task_of
from api.observe.context import current_request
from ifedicl_serve.plugin.request import KEY, TaskRequest


def name_tasks_ourselves(engine_client: Any) -> None:
    """Wrap this client's `add_request`, the one way into the engine, to put our own value under our
    key: that of the request's context (`RequestContext.asked`), or none.

    Upstream: a caller's `vllm_xargs` (completions, chat, responses, messages) and `sampling_params`
    (tokens in, tokens out) reach the engine as they were sent (vllm/entrypoints), our key included.
    Why: each invented digest has every worker look for it, and a worker never forgets one that
    failed: after `MAX_FAILED` it loads no other task.
    Delete when vLLM lets a plugin say what of a request reaches the engine.
    """
    add_request = engine_client.add_request
    if hasattr(add_request, "names_tasks"):
        return

    @wraps(add_request)
    async def add_own_request(
        request_id: str, prompt: Any, params: Any, *rest: Any, **options: Any
    ) -> Any:
        if task_of(request_id) is None:  # else a classification, which says itself what it asks
            put_under_our_key(params, current_request().asked)
        return await add_request(request_id, prompt, params, *rest, **options)

    add_own_request.names_tasks = True  # type: ignore[attr-defined]
    engine_client.add_request = add_own_request


def put_under_our_key(params: Any, asked: TaskRequest | None) -> None:
    """Have vLLM's parameters, of either kind, ask for this and nothing else of ours."""
    extra = "extra_args" if hasattr(params, "extra_args") else "extra_kwargs"
    sent = getattr(params, extra) or {}
    others = {name: value for name, value in sent.items() if name != KEY}
    setattr(params, extra, (others | asked.extra_kwargs() if asked else others) or None)
