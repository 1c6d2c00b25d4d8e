"""A `ClassifyResponse` as JSON. Not made of its models: those of MAX_SCORES scores would hold up
this process, and its probes, for seconds."""

import time
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from api.classify.classifier import Scored
from api.observe.context import current_request
from ifedicl_serve.schema import ClassifyRequest, PromptTokensDetails, Usage
from ifedicl_serve.tasks.task import Task


def answer(task: Task, scored: list[Scored], body: ClassifyRequest) -> Response:
    """What a request is answered with: a result a text, in order, best labels first."""
    content = {
        "id": f"classify-{current_request().id}",
        "object": "list",
        "created": int(time.time()),
        "model": task.name,
        "task_digest": task.digest,
        "adapted": body.adapted,
        "data": [_result(*one, task, body.top_k) for one in enumerate(scored)],
        "usage": _usage(scored),
    }
    return Response(to_json(content), media_type="application/json")


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
