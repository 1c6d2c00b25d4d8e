"""Prefix-cache isolation: KV computed under one task must never serve another.

vLLM's supported key for this is a request's cache salt, hashed into its first block
(`generate_block_hash_extra_keys`) and into later ones by their chain (`hash_block_tokens`). It is
set here, inside the engine core, from the artifact's digest and generation and from where its
adaptation starts, so that no route into the engine can leave it out.
"""

import hashlib
import json
import logging
from functools import wraps
from typing import Any

from ifedicl_serve.plugin.request import MALFORMED, TaskKey, TaskRequest

logger = logging.getLogger("vllm.ifedicl")


def task_salt(task: TaskKey, start: int, client_salt: str | None) -> str:
    """A salt for this task and, within it, for the position where it starts to adapt (equal tokens
    before and behind it have other KV) and for the client's own salt.

    136 characters: vLLM refuses client salts above 128 (`validate_cache_salt`), so no client
    can name a task's blocks.
    """
    named = json.dumps([*task, start, client_salt or ""])  # unambiguous, whatever the strings hold
    return "ifedicl-" + hashlib.sha512(named.encode()).hexdigest()


def salt_requests_by_task() -> None:
    """Wrap `Request.from_engine_core_request` to salt the requests that name a task.

    Upstream: it turns the front end's message into the scheduler's request and hashes its
    blocks (vllm/v1/request.py), for every route into the engine.
    Why: vLLM takes the salt from the caller, who could forget or forge it. A malformed task
    request becomes one for an artifact that does not exist, and fails as such: an exception
    here would leave an in-process engine waiting for it for ever.
    Delete when vLLM lets a model contribute to a request's block hashes.
    """
    from vllm.utils import length_from_prompt_token_ids_or_embeds
    from vllm.v1.request import Request

    original = Request.from_engine_core_request.__func__
    if hasattr(original, "salts_by_task"):
        return

    @wraps(original)
    def from_engine_core_request(cls: type[Request], request: Any, block_hasher: Any) -> Request:
        try:
            asked = TaskRequest.of_request(request)
        except ValueError as error:
            logger.error("request %s: %s", request.request_id, error)
            asked = TaskRequest(TaskKey(MALFORMED))
            replace_task(request, asked)
        prompt = request.prompt_token_ids, request.prompt_embeds
        task, start = asked.adaptation(length_from_prompt_token_ids_or_embeds(*prompt))
        if task is not None:
            request.cache_salt = task_salt(task, start, request.cache_salt)
        return original(cls, request, block_hasher)

    from_engine_core_request.salts_by_task = True  # type: ignore[attr-defined]
    Request.from_engine_core_request = classmethod(from_engine_core_request)


def replace_task(request: Any, task: TaskRequest) -> None:
    """Make a request of vLLM's carry another task."""
    if request.pooling_params is not None:
        request.pooling_params.extra_kwargs = task.extra_kwargs()
    else:
        request.sampling_params.extra_args |= task.extra_kwargs()
