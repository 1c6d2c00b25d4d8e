"""Scores the labels of tasks with vLLM's `LLM`: the only file here that knows it."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from api.batch.run import Floats, OnProgress, RowPrompts, Scores
from api.classify.encoder import PromptEncoder
from api.classify.engine import (
    GroupRequest,
    TokenScores,
    group_requests,
    scores_of_tasks,
    split_scores,
)
from api.classify.groups import Group, grouped, parted
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.tasks.task import Task

REQUESTS_AT_ONCE = 4096  # of a chunk's, whose rows times requests may fill the memory


class PartAnswer(NamedTuple):
    """What a row's prompt was answered with for a part of a group: the scores of each request."""

    row: int
    part: Group
    scores: list[Floats]


class BatchEngine:
    """Scores many prompts of some tasks at a time.

    The artifacts must be in the engine's folder `tasks`, in sub-folders of their names. Raises
    PromptError if labels do not tokenise.
    """

    def __init__(self, llm: Any, artifacts: Sequence[Artifact], tasks: Path) -> None:
        tokenizer = llm.get_tokenizer()
        for artifact in artifacts:
            artifact.spec.model.refuse_other_tokenizer(tokenizer)
        self.llm = llm
        self.tasks = [Task.of(one, tokenizer, tasks / one.spec.name) for one in artifacts]
        self.prompts = PromptEncoder(tokenizer, llm.model_config.max_model_len)
        self.groups = grouped(self.tasks, self.prompts.key, alone=lambda task: task.adapts)
        self.requests = cache(self._requests)

    def _requests(self, part: Group) -> list[GroupRequest]:
        return group_requests([self.tasks[place] for place in part])

    def scores(self, prompts: list[RowPrompts], on_progress: OnProgress) -> list[Scores]:
        """Log-softmaxes of each task's trie after its prompts, [prompts, choices], and the scores
        of its label rows, [prompts, labels], if it has some.

        A row's requests are asked for one behind the other, and reuse what is computed for the
        first. `on_progress` is told of rows done since, in fractions.
        """
        # Else the last bits of scores would depend on what came before this chunk.
        self.llm.reset_prefix_cache()
        answers: dict[Group, list[PartAnswer]] = {group: [] for group in self.groups}
        rows = list(enumerate(prompts))
        at_once = max(1, REQUESTS_AT_ONCE // sum(map(len, map(self.requests, self.groups))))
        for start in range(0, len(rows), at_once):
            for answer in self._answers(rows[start : start + at_once], on_progress):
                answers.setdefault(answer.part, []).append(answer)
        of_tasks: list[list[tuple[list[int], TokenScores]]] = [[] for _ in self.tasks]
        for part, of_rows in answers.items():
            numbers = [answer.row for answer in of_rows]
            for place, scores in zip(part, self._split(part, of_rows), strict=True):
                of_tasks[place].append((numbers, scores))
        return list(map(_in_order, of_tasks))

    def _answers(
        self, rows: Sequence[tuple[int, RowPrompts]], on_progress: OnProgress
    ) -> Iterator[PartAnswer]:
        parts = [
            (number, part, ids)
            for number, row in rows
            for part in parted(self.groups, row)
            if not isinstance(ids := row[part[0]], str)
        ]
        asked = [(ids, one) for _, part, ids in parts for one in self.requests(part)]
        outputs = iter(self._encode(asked, len(rows), on_progress))
        for number, part, _ in parts:
            scores = [next(outputs).outputs.data.numpy() for _ in self.requests(part)]
            yield PartAnswer(number, part, scores)

    def _encode(
        self, asked: list[tuple[list[int], GroupRequest]], rows: int, on_progress: OnProgress
    ) -> list[Any]:
        from vllm import PoolingParams

        if not asked:
            on_progress(rows)
            return []
        return self.llm.encode(
            [{"prompt_token_ids": [*ids, *one.path]} for ids, one in asked],
            [
                PoolingParams(task="classify", extra_kwargs=one.asked.extra_kwargs())
                for _, one in asked
            ],
            pooling_task="classify",
            use_tqdm=lambda **_: _Bar(rows / len(asked), on_progress),
        )

    def _split(self, part: Group, answers: list[PartAnswer]) -> list[TokenScores]:
        """Those of each task of a part, [scores, prompts]: with the prompts as the last axis, they
        split as the scores of one prompt do."""
        requests = self.requests(part)
        split = [
            split_scores(one.asked, _stacked(one, [answer.scores[number] for answer in answers]).T)
            for number, one in enumerate(requests)
        ]
        return scores_of_tasks(requests, split)


def _stacked(request: GroupRequest, answers: list[Floats]) -> Floats:
    """[prompts, scores]: behind a request's own is padding."""
    width = sum(readout.scores for readout in request.asked.readouts)
    return np.array([scores[:width] for scores in answers], np.float32).reshape(-1, width)


def _in_order(parts: list[tuple[list[int], TokenScores]]) -> Scores:
    """A task's scores of all rows, from those of the parts that it was asked in."""
    order = np.argsort(np.concatenate([numbers for numbers, _ in parts]))
    log_probs = np.concatenate([scores.log_probs for _, scores in parts], axis=1)
    rows = [scores.row_scores for _, scores in parts if scores.row_scores is not None]
    return log_probs.T[order], np.concatenate(rows, axis=1).T[order] if rows else None


class _Bar:
    """What `LLM.encode` takes for a bar of tqdm's: counts requests, reports rows."""

    EVERY = 64  # requests

    def __init__(self, rows_per_request: float, on_progress: OnProgress) -> None:
        self.n = 0
        self.reported = 0
        self.rows_per_request = rows_per_request
        self.on_progress = on_progress

    def update(self, count: int) -> None:
        self.n += count
        if self.n - self.reported >= self.EVERY:
            self.refresh()

    def refresh(self) -> None:
        self.on_progress((self.n - self.reported) * self.rows_per_request)
        self.reported = self.n

    def close(self) -> None:
        self.refresh()
