"""Answers as JSON: a `ClassifyResponse` of one task, a `ClassifyTasksResponse` of several.

Not made of these models: those of MAX_SCORES scores would hold up this process, and its probes, for
seconds.
"""

import time
from collections.abc import Iterator
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from api.classify.classifier import Scored
from api.errors import error_info
from api.http.answers import AllAnswers
from api.observe.context import current_request
from ifedicl_serve.errors import IFedICLError
from ifedicl_serve.schema import ClassifyRequest, PromptTokensDetails, Usage
from ifedicl_serve.tasks.task import Task


def answer(answers: AllAnswers, body: ClassifyRequest) -> Response:
    """What a request is answered with: best labels first, a result a text in the order of the
    texts, or a result or error a text and task in the order of the texts and then of the tasks."""
    data = _of_one(answers, body) if body.names_one else _of_several(answers, body)
    content = {
        "id": f"classify-{current_request().id}",
        "object": "list",
        "created": int(time.time()),
        **data,
        "usage": _usage([one for of_one in answers.values() for one in of_one.scored]),
    }
    return Response(to_json(content), media_type="application/json")


def _of_one(answers: AllAnswers, body: ClassifyRequest) -> dict[str, Any]:
    (of_one,) = answers.values()
    task = of_one.task
    assert task is not None  # else its error is the answer
    return {
        "model": task.name,
        "task_digest": task.digest,
        "adapted": body.adapted,
        "data": [_result(*one, task, body.top_k) for one in enumerate(of_one.scored)],
    }


def _of_several(answers: AllAnswers, body: ClassifyRequest) -> dict[str, Any]:
    results = (
        entry for index in range(len(body.texts)) for entry in _entries(answers, index, body.top_k)
    )
    return {"adapted": body.adapted, "data": list(results)}


def _entries(answers: AllAnswers, index: int, top_k: int | None) -> Iterator[dict[str, Any]]:
    """Of one text, a `TaskClassification` or `TaskError` a task."""
    for name, of_one in answers.items():
        result, task = of_one.results[index], of_one.task
        if isinstance(result, IFedICLError):
            yield {"object": "error", "index": index, "task": name, "error": error_info(result)}
        else:
            assert task is not None  # whose result it is
            named = {"task": name, "task_digest": task.digest}
            yield {**_result(index, result, task, top_k), **named}


def _result(index: int, scored: Scored, task: Task, top_k: int | None) -> dict[str, Any]:
    """A `Classification`."""
    labels, probabilities = task.spec.labels, scored.probabilities
    best = (-probabilities).argsort(kind="stable")[:top_k]
    scores = [
        {"label": labels[one].name, "score": score}
        for one, score in zip(best.tolist(), probabilities[best].tolist(), strict=True)
    ]
    return {
        "object": "classification",
        "index": index,
        **scores[0],
        "scores": scores,
        "prompt_tokens": scored.prompt_tokens,
    }


def _usage(scored: list[Scored]) -> Usage:
    tokens = sum(result.prompt_tokens for result in scored)
    cached = sum(result.cached_tokens for result in scored)
    return Usage(
        prompt_tokens=tokens,
        total_tokens=tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )
