"""The engine as the routes see it: label tokens of a prompt in, log-probabilities out, and with
them the scores of a task's label rows."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch

from api.classify.together import all_or_none
from api.observe.context import current_request
from ifedicl_serve.contract.labels import TrieNode
from ifedicl_serve.errors import DrainingError, EngineDiedError, InputError
from ifedicl_serve.plugin.request import TaskRequest
from ifedicl_serve.tasks.task import Task

# Begins the ids of our engine requests: no caller of vLLM's own routes, who may choose an id there,
# can guess it.
CLASSIFY = f"classify-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class TokenScores:
    """Log-probabilities among the tokens asked for, and the scores of the label rows if those were
    (NaN: the task could not be loaded)."""

    log_probs: npt.NDArray[np.float32]  # [tokens]
    cached_tokens: int
    row_scores: npt.NDArray[np.float32] | None = None  # [labels]


def node_request(task: Task, node: TrieNode, adapted: bool = True) -> TaskRequest:
    """What the engine is asked after a prompt and a node's path; nothing of the task for the base
    model's own answer.

    All nodes adapt a prompt from the same position on. Label rows are scored at the first alone.
    """
    if not adapted:
        return TaskRequest(label_token_ids=node.children)
    tail = None if task.tail is None else task.tail + len(node.path)
    label_rows = task.label_rows if node == task.trie.nodes[0] else 0
    return TaskRequest(task.digest, node.children, task.generation, tail, label_rows)


class LabelEngine(Protocol):
    """Scores the next token of a prompt under a task."""

    async def token_scores(self, prompt_ids: list[int], request: TaskRequest) -> TokenScores:
        """What `request` asks for, after `prompt_ids`."""
        ...


async def trie_scores(
    engine: LabelEngine, task: Task, prompt: list[int], adapted: bool
) -> TokenScores:
    """The log-softmaxes of the task's label trie after a prompt, node by node: the root, then the
    inner nodes, which reuse the prompt's cached prefix."""

    async def scored(node: TrieNode) -> TokenScores:
        return await engine.token_scores([*prompt, *node.path], node_request(task, node, adapted))

    root, *inner = task.trie.nodes
    first = await scored(root)
    rest = await all_or_none(map(scored, inner))
    choices = np.concatenate([scores.log_probs for scores in (first, *rest)])
    return replace(first, log_probs=choices)


class PoolingEngine:
    """LabelEngine on vLLM's engine client in its pooling runner: label tokens alone are scored."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def token_scores(self, prompt_ids: list[int], request: TaskRequest) -> TokenScores:
        from vllm import PoolingParams

        params = PoolingParams(task="classify", extra_kwargs=request.extra_kwargs())
        prompt = {"prompt_token_ids": prompt_ids}
        result = await _last(self.client.encode(prompt, params, **_named()))
        tokens, rows = len(request.label_token_ids), request.label_rows
        scores = result.outputs.data.numpy()[: tokens + rows]  # the rest is padding
        row_scores = scores[tokens:] if rows else None
        return TokenScores(scores[:tokens], result.num_cached_tokens or 0, row_scores)


class GenerationEngine:
    """LabelEngine on vLLM's engine client in its generate runner: one token, and label log-probs.

    The whole vocabulary is scored, so it is slower than `PoolingEngine`. Nothing here scores label
    rows: a task that has some is refused with InputError, never read without them.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    async def token_scores(self, prompt_ids: list[int], request: TaskRequest) -> TokenScores:
        from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS as most

        if request.label_rows:
            raise InputError(
                f"this task scores its {request.label_rows} labels with rows of its own, and this "
                "server generates, which uses a task's scale and shift alone; classify on one that "
                "was started with --runner pooling"
            )
        tokens = request.label_token_ids
        parts = [
            replace(request, label_token_ids=tokens[start : start + most])
            for start in range(0, len(tokens), most)
        ]
        scored = await all_or_none(self._generate(prompt_ids, part) for part in parts)
        among_all = torch.from_numpy(np.concatenate([scores.log_probs for scores in scored]))
        cached = min(scores.cached_tokens for scores in scored)
        return TokenScores(among_all.log_softmax(dim=0).numpy(), cached)

    async def _generate(self, prompt_ids: list[int], request: TaskRequest) -> TokenScores:
        """Log-probabilities of the label tokens among the whole vocabulary."""
        from vllm import SamplingParams

        token_ids = request.label_token_ids
        params = SamplingParams(
            max_tokens=1,
            logprob_token_ids=list(token_ids),
            detokenize=False,
            extra_args=replace(request, label_token_ids=()).extra_kwargs(),
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
