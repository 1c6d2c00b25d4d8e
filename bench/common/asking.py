"""Tasks asked and read out on an engine in this process, as `api` does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from api.classify.engine import GroupRequest, group_requests, scores_of_tasks, split_scores
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.errors import TaskUnavailableError
from ifedicl_serve.tasks.task import Task

Scores = npt.NDArray[np.floating]


def log_probs(
    llm: Any, asked: Sequence[tuple[Task, bool]], texts: Sequence[str], one_by_one: bool = False
) -> list[Scores]:
    """Label log-probabilities [texts, labels] of each task, adapted or not; NaN of one that the
    engine could not load. All in one batch, or every engine request in a batch of its own."""
    from vllm import PoolingParams

    tokenizer = llm.get_tokenizer()
    groups = [group_requests([task], adapted) for task, adapted in asked]
    prompts, params = [], []
    for (task, _), group in zip(asked, groups, strict=True):
        for text in texts:
            ids = token_ids(tokenizer, task.spec.prompt.render(text))
            for one in group:
                extra_kwargs = one.asked.extra_kwargs()
                prompts.append({"prompt_token_ids": [*ids, *one.path]})
                params.append(PoolingParams(task="classify", extra_kwargs=extra_kwargs))
    size = 1 if one_by_one else len(prompts)
    answers = (
        output.outputs.data.float().numpy()
        for start in range(0, len(prompts), size)
        for output in llm.encode(
            prompts[start : start + size],
            params[start : start + size],
            pooling_task="classify",
            use_tqdm=False,
        )
    )
    return [
        np.array([read_out(task, adapted, group, answers) for _ in texts])
        for (task, adapted), group in zip(asked, groups, strict=True)
    ]


def read_out(
    task: Task,
    adapted: bool,
    group: Sequence[GroupRequest],
    answers: Iterator[npt.NDArray[np.float32]],
) -> Scores:
    """Of a text, from the next answers."""
    parts = [split_scores(one.asked, next(answers)) for one in group]
    (scores,) = scores_of_tasks(group, parts)
    try:
        return np.log(task.read_out(scores.log_probs, scores.row_scores, adapted))
    except TaskUnavailableError:
        return np.full(len(task.spec.labels), np.nan)
