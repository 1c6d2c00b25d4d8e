"""Prefix-cache isolation: KV that a task adapted must never serve another, and all other KV may.

vLLM finds a block of KV by a hash of its tokens, of extra keys and of the block before it
(`hash_block_tokens`). The first block that holds an adapted token gets the task as an extra key,
and so all that follow have it by their chain. Blocks before it hold the base model's own KV,
whichever task a request names, and are found by all. This is done inside the engine core, so that
no route into the engine can leave it out.
"""

from functools import wraps
from typing import Any

from ifedicl_serve.plugin.request import KEY, Adaptation, TaskRequest

KEPT = "ifedicl_task"


def salt_blocks_by_task() -> None:
    """Wrap `generate_block_hash_extra_keys` to add the task to the first block that it adapts.

    Upstream: it says what else than its tokens is hashed into a block: LoRA, images, and, in the
    first block, the caller's own salt (vllm/v1/core/kv_cache_utils.py). Every hash of a request's
    blocks asks it, those of blocks that decoding fills too.
    Why: vLLM's salt is for whole requests, and the caller's to forget or forge.
    Delete when vLLM lets a model contribute to a request's block hashes.
    """
    from vllm.v1.core import kv_cache_utils

    original = kv_cache_utils.generate_block_hash_extra_keys
    if hasattr(original, "salts_by_task"):
        return

    @wraps(original)
    def extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> Any:
        keys, next_mm_idx = original(request, start_token_idx, end_token_idx, start_mm_idx)
        adaptation = _task_of(request).adaptation(request.num_prompt_tokens)
        if adaptation.task is not None and start_token_idx <= adaptation.start < end_token_idx:
            keys = (*(keys or ()), task_salt(adaptation))
        return keys, next_mm_idx

    extra_keys.salts_by_task = True  # type: ignore[attr-defined]
    kv_cache_utils.generate_block_hash_extra_keys = extra_keys


def _task_of(request: Any) -> TaskRequest:
    """Read once, and kept on vLLM's request: it is asked for with every block. Read again if a
    session that goes on has other parameters."""
    params = request.pooling_params or request.sampling_params
    read = getattr(request, KEPT, None)
    if read is None or read[0] is not params:
        read = params, TaskRequest.of(params)
        setattr(request, KEPT, read)
    return read[1]


def task_salt(adaptation: Adaptation) -> tuple[str, str, str, int]:
    """An extra key, named first as vLLM's are: a caller's salt is never ours. Where the task starts
    belongs to it, as equal tokens before and behind that position have other KV."""
    assert adaptation.task is not None
    return (KEY, *adaptation.task, adaptation.start)
