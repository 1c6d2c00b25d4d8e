"""The engine as the routes see it: label tokens of a prompt in, log-probabilities out."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch

from api.classify.together import all_or_none
from api.observe.context import current_request
from ifedicl_serve.errors import DrainingError, EngineDiedError
from ifedicl_serve.plugin.request import TaskRequest
from ifedicl_serve.tasks.task import Task

# Begins the ids of our engine requests: no caller of vLLM's own routes, who may choose an id there,
# can guess it.
CLASSIFY = f"classify-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class TokenScores:
    """Log-probabilities among the tokens asked for (NaN: the task could not be loaded)."""

    log_probs: npt.NDArray[np.float32]  # [tokens]
    cached_tokens: int


def _request(task: Task | None, token_ids: tuple[int, ...] = ()) -> TaskRequest:
    """What the engine is told of the task; nothing for the base model's own answer."""
    if task is None:
        return TaskRequest(label_token_ids=token_ids)
    return TaskRequest(task.digest, token_ids, task.generation)


class LabelEngine(Protocol):
    """Scores the next token of a prompt under a task."""

    async def token_scores(
        self, task: Task | None, prompt_ids: list[int], token_ids: tuple[int, ...]
    ) -> TokenScores:
        """Log-softmax among `token_ids` after `prompt_ids`, adapted by `task` (None: by none)."""
        ...


async def trie_scores(
    engine: LabelEngine, task: Task, prompt: list[int], adapted: bool
) -> TokenScores:
    """The log-softmaxes of the task's label trie after a prompt, node by node: the root, then the
    inner nodes, which reuse the prompt's cached prefix."""
    root, *inner = task.trie.nodes
    injected = task if adapted else None
    first = await engine.token_scores(injected, [*prompt, *root.path], root.children)
    rest = await all_or_none(
        engine.token_scores(injected, [*prompt, *node.path], node.children) for node in inner
    )
    choices = np.concatenate([scores.log_probs for scores in (first, *rest)])
    return TokenScores(choices, first.cached_tokens)


class PoolingEngine:
    """LabelEngine on vLLM's engine client in its pooling runner: label tokens alone are scored."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def token_scores(
        self, task: Task | None, prompt_ids: list[int], token_ids: tuple[int, ...]
    ) -> TokenScores:
        from vllm import PoolingParams

        params = PoolingParams(
            task="classify", extra_kwargs=_request(task, token_ids).extra_kwargs()
        )
        prompt = {"prompt_token_ids": prompt_ids}
        result = await _last(self.client.encode(prompt, params, **_named()))
        log_probs = result.outputs.data.numpy()[: len(token_ids)]  # the rest is padding
        return TokenScores(log_probs, result.num_cached_tokens or 0)


class GenerationEngine:
    """LabelEngine on vLLM's engine client in its generate runner: one token, and label log-probs.

    The whole vocabulary is scored, so it is slower than `PoolingEngine`.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    async def token_scores(
        self, task: Task | None, prompt_ids: list[int], token_ids: tuple[int, ...]
    ) -> TokenScores:
        from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS as most

        parts = [token_ids[start : start + most] for start in range(0, len(token_ids), most)]
        scored = await all_or_none(self._generate(task, prompt_ids, part) for part in parts)
        among_all = torch.from_numpy(np.concatenate([scores.log_probs for scores in scored]))
        cached = min(scores.cached_tokens for scores in scored)
        return TokenScores(among_all.log_softmax(dim=0).numpy(), cached)

    async def _generate(
        self, task: Task | None, prompt_ids: list[int], token_ids: tuple[int, ...]
    ) -> TokenScores:
        """Log-probabilities of `token_ids` among the whole vocabulary."""
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=1,
            logprob_token_ids=list(token_ids),
            detokenize=False,
            extra_args=_request(task).extra_kwargs(),
        )
        prompt = {"prompt_token_ids": prompt_ids}
        result = await _last(self.client.generate(prompt, params, **_named()))
        completion = result.outputs[0]
        if completion.finish_reason == "abort":  # --shutdown-timeout is over
            raise DrainingError("this server is stopping; send the request to another one")
        if completion.finish_reason == "error":
            log_probs = np.full(len(token_ids), np.nan, dtype=np.float32)
        else:
            first = completion.logprobs[0]
            log_probs = np.array([first[token].logprob for token in token_ids], dtype=np.float32)
        return TokenScores(log_probs, result.num_cached_tokens or 0)


def _named() -> dict[str, Any]:
    """What ties an engine request to the HTTP request it is of, in logs, traces and metrics."""
    return {
        "request_id": new_request_id(),
        "trace_headers": current_request().trace_headers or None,
    }


def new_request_id() -> str:
    """For an engine request of the classification that is running."""
    request = current_request()
    return f"{CLASSIFY}:{request.task}:{request.id}:{uuid4().hex[:8]}"


def task_of(request_id: str | None) -> str | None:
    """The task in an engine request's id; None if it is no classification of this process."""
    kind, _, rest = (request_id or "").partition(":")
    return rest.partition(":")[0] if kind == CLASSIFY else None


async def _last(outputs: AsyncIterator[Any]) -> Any:
    """The last output of an engine request. Raises EngineDiedError."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        async for output in outputs:
            result = output
    except EngineDeadError as error:
        raise EngineDiedError("the engine has stopped, and this server is about to") from error
    return result
