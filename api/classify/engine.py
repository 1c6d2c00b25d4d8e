"""The engine as the routes see it: label tokens of a prompt in, log-probabilities out, and with
them the scores of tasks' label rows. Tasks that adapt nothing share an engine request."""

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch

from api.classify.together import all_or_none
from api.observe.context import current_request
from ifedicl_serve.contract.labels import Tokens
from ifedicl_serve.errors import DrainingError, EngineDiedError, InputError
from ifedicl_serve.plugin.request import (
    MAX_READOUTS,
    MAX_SCORES,
    AskedReadout,
    TaskKey,
    TaskRequest,
)
from ifedicl_serve.tasks.task import Task

# Begins the ids of our engine requests: no caller of vLLM's own routes, who may choose an id there,
# can guess it.
CLASSIFY = f"classify-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class TokenScores:
    """Log-probabilities among the tokens asked for, and the scores of the label rows if those were
    (NaN: the task could not be loaded)."""

    log_probs: npt.NDArray[np.float32]  # [tokens]
    cached_tokens: int  # of the engine request, which may have answered other tasks too
    row_scores: npt.NDArray[np.float32] | None = None  # [labels]
    hidden: npt.NDArray[np.float32] | None = None  # [hidden], the state they are made of


class NodeReadout(NamedTuple):
    """What is asked at a node of a task's trie; both are positions, of the task in its group."""

    task: int
    node: int
    readout: AskedReadout


@dataclass(frozen=True)
class GroupRequest:
    """An engine request: what a group of tasks asks behind a prompt and `path`."""

    path: Tokens
    adaptation: TaskRequest
    nodes: tuple[NodeReadout, ...]

    @cached_property
    def asked(self) -> TaskRequest:
        """What the engine is told."""
        return replace(self.adaptation, readouts=tuple(node.readout for node in self.nodes))


def group_requests(tasks: Sequence[Task], adapted: bool = True) -> list[GroupRequest]:
    """The engine requests that answer a *group* of tasks: one that adapts, or any number that adapt
    nothing and have the same prompt. Nodes of equal path are one request, as far as it holds them.

    Unadapted is the base model's own answer: of the tasks there are only their label tokens. Label
    rows are scored at a task's first node alone.
    """
    nodes: dict[Tokens, list[NodeReadout]] = {}
    for position, task in enumerate(tasks):
        for number, node in enumerate(task.trie.nodes):
            readout = _readout(task, number, adapted)
            nodes.setdefault(node.path, []).append(NodeReadout(position, number, readout))
    return [
        GroupRequest(path, _adaptation(tasks, path, adapted), tuple(part))
        for path, at_path in nodes.items()
        for part in _parts(at_path)
    ]


def key_of(task: Task) -> TaskKey:
    """What workers file a task under."""
    return TaskKey(task.digest, task.generation)


def _readout(task: Task, number: int, adapted: bool) -> AskedReadout:
    children = task.trie.nodes[number].children
    if not (adapted and number == 0 and task.label_rows):
        return AskedReadout(children)
    return AskedReadout(children, task.label_rows, key_of(task))


def _adaptation(tasks: Sequence[Task], path: Tokens, adapted: bool) -> TaskRequest:
    """All nodes of a task adapt a prompt from the same position on."""
    if not adapted or not any(task.adapts for task in tasks):
        return TaskRequest()
    (task,) = tasks
    return TaskRequest(key_of(task), tail=None if task.tail is None else task.tail + len(path))


def _parts(nodes: Iterable[NodeReadout]) -> Iterator[list[NodeReadout]]:
    """As many as an engine request holds."""
    part: list[NodeReadout] = []
    scores = 0
    for node in nodes:
        scores += node.readout.scores
        if part and (len(part) == MAX_READOUTS or scores > MAX_SCORES):
            yield part
            part, scores = [], node.readout.scores
        part.append(node)
    yield part


def split_scores(
    request: TaskRequest, scores: npt.NDArray[np.float32], cached_tokens: int = 0
) -> list[TokenScores]:
    """Those of each readout, from what a worker answers; padding is behind them."""
    split = []
    for readout in request.readouts:
        tokens, rows, hidden, scores = np.split(scores, np.cumsum(readout.lengths))
        split.append(
            TokenScores(
                tokens,
                cached_tokens,
                rows if readout.label_rows else None,
                hidden if readout.hidden_size else None,
            )
        )
    return split


def scores_of_tasks(
    requests: Sequence[GroupRequest], answers: Sequence[list[TokenScores]]
) -> list[TokenScores]:
    """Each task's from the answers to its group's requests: log-softmaxes node by node, and the
    rest from its first node."""
    of_tasks: dict[int, dict[int, TokenScores]] = defaultdict(dict)
    for request, answer in zip(requests, answers, strict=True):
        for node, scores in zip(request.nodes, answer, strict=True):
            of_tasks[node.task][node.node] = scores
    return [_whole(of_tasks[task]) for task in sorted(of_tasks)]


def _whole(of_nodes: Mapping[int, TokenScores]) -> TokenScores:
    log_probs = np.concatenate([of_nodes[node].log_probs for node in sorted(of_nodes)])
    return replace(of_nodes[0], log_probs=log_probs)


class LabelEngine(Protocol):
    """Scores the next token of a prompt under a task."""

    def refuse(self, task: Task) -> None:
        """Raises InputError for a task that this engine cannot answer, before anything is asked."""
        ...

    def requests(self, request: TaskRequest) -> int:
        """How many engine requests `token_scores` makes of one."""
        ...

    async def token_scores(self, prompt_ids: list[int], request: TaskRequest) -> list[TokenScores]:
        """What each readout of `request` asks for, after `prompt_ids`."""
        ...


async def trie_scores(
    engine: LabelEngine, requests: Sequence[GroupRequest], prompt: Sequence[int]
) -> list[TokenScores]:
    """Each task's log-softmaxes of its label trie after a prompt, node by node, and the scores of
    its label rows. The requests are those of a group.

    All is asked at once: whichever request the engine begins with, the others find the prompt's
    cached prefix, also in the same step.
    """
    answers = await all_or_none(
        engine.token_scores([*prompt, *request.path], request.asked) for request in requests
    )
    return scores_of_tasks(requests, answers)


class PoolingEngine:
    """LabelEngine on vLLM's engine client in its pooling runner: label tokens alone are scored."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def refuse(self, task: Task) -> None:
        """It answers every task."""

    def requests(self, request: TaskRequest) -> int:
        """One for all readouts."""
        return 1

    async def token_scores(self, prompt_ids: list[int], request: TaskRequest) -> list[TokenScores]:
        from vllm import PoolingParams

        params = PoolingParams(task="classify", extra_kwargs=request.extra_kwargs())
        result = await _last(self.client.encode(_prompt(prompt_ids), params, **_named()))
        scores = result.outputs.data.numpy()
        return split_scores(request, scores, result.num_cached_tokens or 0)


class GenerationEngine:
    """LabelEngine on vLLM's engine client in its generate runner: one token, and label log-probs.

    The whole vocabulary is scored, so it is slower than `PoolingEngine`. Nothing here scores label
    rows: they are NaN, so a task that has some is never read without them.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def refuse(self, task: Task) -> None:
        """Raises InputError for label rows."""
        if task.label_rows:
            raise InputError(
                f"task {task.name!r} scores its {task.label_rows} labels with rows of its own, and "
                "this server generates, which uses a task's scale and shift alone; classify on one "
                "that was started with --runner pooling"
            )

    def requests(self, request: TaskRequest) -> int:
        """One for as many tokens as vLLM reports at once."""
        return len(_token_parts(request))

    async def token_scores(self, prompt_ids: list[int], request: TaskRequest) -> list[TokenScores]:
        if any(readout.hidden_size for readout in request.readouts):
            raise InputError(
                "this server generates, and tasks are made on one that was started with --runner "
                "pooling; send the examples there"
            )
        parts, unread = _token_parts(request), replace(request, readouts=())
        scored = await all_or_none(self._generate(prompt_ids, unread, part) for part in parts)
        log_probs = np.concatenate([part for part, _ in scored])
        among_all = dict(zip(chain(*parts), log_probs, strict=True))
        cached = min(cached for _, cached in scored)
        return [_among(readout, among_all, cached) for readout in request.readouts]

    async def _generate(
        self, prompt_ids: list[int], request: TaskRequest, token_ids: list[int]
    ) -> tuple[npt.NDArray[np.float32], int]:
        """Log-probabilities of label tokens among the whole vocabulary, and tokens cached."""
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=1,
            logprob_token_ids=token_ids,
            detokenize=False,
            extra_args=request.extra_kwargs(),
        )
        result = await _last(self.client.generate(_prompt(prompt_ids), params, **_named()))
        completion = result.outputs[0]
        if completion.finish_reason == "abort":  # --shutdown-timeout is over
            raise DrainingError("this server is stopping; send the request to another one")
        if completion.finish_reason == "error":
            log_probs = np.full(len(token_ids), np.nan, dtype=np.float32)
        else:
            first = completion.logprobs[0]
            log_probs = np.array([first[token].logprob for token in token_ids], dtype=np.float32)
        return log_probs, result.num_cached_tokens or 0


def _token_parts(request: TaskRequest) -> list[list[int]]:
    """The label tokens of all readouts, each once, as many together as vLLM reports at once."""
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS as most

    tokens = list(dict.fromkeys(chain(*(of.label_token_ids for of in request.readouts))))
    return [tokens[start : start + most] for start in range(0, len(tokens), most)]


def _among(
    readout: AskedReadout, among_all: Mapping[int, np.float32], cached_tokens: int
) -> TokenScores:
    """A readout's scores from log-probabilities of tokens among the whole vocabulary."""
    own = np.array([among_all[token] for token in readout.label_token_ids], dtype=np.float32)
    log_probs = torch.from_numpy(own).log_softmax(dim=0).numpy()
    rows = np.full(readout.label_rows, np.nan, dtype=np.float32) if readout.label_rows else None
    return TokenScores(log_probs, cached_tokens, rows)


def _prompt(ids: list[int]) -> dict[str, Any]:
    """As vLLM takes it."""
    salt = current_request().cache_salt()
    return {"prompt_token_ids": ids} | ({"cache_salt": salt} if salt else {})


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
    """The task in an engine request's id, the first of those that share it; None if it is no
    classification of this process."""
    kind, _, rest = (request_id or "").partition(":")
    return rest.partition(":")[0].partition("+")[0] if kind == CLASSIFY else None


async def _last(outputs: AsyncIterator[Any]) -> Any:
    """The last output of an engine request. Raises EngineDiedError."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        async for output in outputs:
            result = output
    except EngineDeadError as error:
        raise EngineDiedError("the engine has stopped, and this server is about to") from error
    return result
