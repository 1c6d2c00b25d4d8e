"""Scores the labels of tasks with vLLM's `LLM`: the only file here that knows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from api.batch.run import Floats, OnProgress, RowPrompts, Scores
from api.classify.encoder import PromptEncoder
from api.classify.engine import GroupRequest, group_requests, scores_of_tasks, split_scores
from api.classify.groups import grouped
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.tasks.task import Task

REQUESTS_AT_ONCE = 4096  # of a chunk's, whose rows times requests may fill the memory


class BatchEngine:
    """Scores many prompts of some tasks at a time.

    The artifacts must be in the engine's folder `tasks`, in sub-folders of their names. Raises
    PromptError if labels do not tokenise.
    """

    def __init__(self, llm: Any, artifacts: Sequence[Artifact], tasks: Path) -> None:
        from vllm import PoolingParams

        tokenizer = llm.get_tokenizer()
        for artifact in artifacts:
            artifact.spec.model.refuse_other_tokenizer(tokenizer)
        self.llm = llm
        self.tasks = [Task.of(one, tokenizer, tasks / one.spec.name) for one in artifacts]
        self.prompts = PromptEncoder(tokenizer, llm.model_config.max_model_len)
        self.groups = [
            (group, group_requests([self.tasks[place] for place in group]))
            for group in grouped(self.tasks, self.prompts, alone=lambda task: task.adapts)
        ]
        # Of a row: whose prompt, and what is asked after it.
        self.requests = [(group[0], one) for group, requests in self.groups for one in requests]
        self.params = [
            PoolingParams(task="classify", extra_kwargs=one.asked.extra_kwargs())
            for _, one in self.requests
        ]

    def scores(self, prompts: list[RowPrompts], on_progress: OnProgress) -> list[Scores]:
        """Log-softmaxes of each task's trie after its prompts, [prompts, choices], and the scores
        of its label rows, [prompts, labels], if it has some.

        A row's requests are asked for one behind the other, and reuse what is computed for the
        first. `on_progress` is told of rows done since, in fractions.
        """
        # Else the last bits of scores would depend on what came before this chunk.
        self.llm.reset_prefix_cache()
        at_once = max(1, REQUESTS_AT_ONCE // len(self.requests))
        parts = [
            self._answers(prompts[start : start + at_once], on_progress)
            for start in range(0, len(prompts), at_once)
        ]
        answers = map(np.concatenate, zip(*parts, strict=True))
        by_place: dict[int, Scores] = {}
        for group, requests in self.groups:
            # With the prompts as the last axis, they split as the scores of one prompt do.
            split = [split_scores(one.asked, next(answers).T) for one in requests]
            for place, scores in zip(group, scores_of_tasks(requests, split), strict=True):
                rows = scores.row_scores
                by_place[place] = scores.log_probs.T, None if rows is None else rows.T
        return [by_place[place] for place in range(len(self.tasks))]

    def _answers(self, prompts: list[RowPrompts], on_progress: OnProgress) -> list[Floats]:
        """Of each of a row's requests the scores, [prompts, scores]."""
        asked = [
            (number, ids)
            for row in prompts
            for number, (place, _) in enumerate(self.requests)
            if not isinstance(ids := row[place], str)
        ]
        outputs = self._encode(asked, len(prompts), on_progress) if asked else []
        if not asked:
            on_progress(len(prompts))
        answers: list[list[Floats]] = [[] for _ in self.requests]
        for (number, _), output in zip(asked, outputs, strict=True):
            answers[number].append(output.outputs.data.numpy())
        return [
            _stacked(one, scores) for (_, one), scores in zip(self.requests, answers, strict=True)
        ]

    def _encode(
        self, asked: list[tuple[int, list[int]]], rows: int, on_progress: OnProgress
    ) -> list[Any]:
        return self.llm.encode(
            [{"prompt_token_ids": [*ids, *self.requests[number][1].path]} for number, ids in asked],
            [self.params[number] for number, _ in asked],
            pooling_task="classify",
            use_tqdm=lambda **_: _Bar(rows / len(asked), on_progress),
        )


def _stacked(request: GroupRequest, answers: list[Floats]) -> Floats:
    """[prompts, scores]: behind a request's own is padding."""
    width = sum(readout.scores for readout in request.asked.readouts)
    return np.array([scores[:width] for scores in answers], np.float32).reshape(-1, width)


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
