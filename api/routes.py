"""The routes: `POST /v1/classify`, `GET /v1/tasks`, `GET /v1/tasks/{name}`."""

import asyncio
import time
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Request

from api.classify import Classifier, Scored
from api.errors import TaskRoute
from api.schema import (
    Classification,
    ClassifyRequest,
    ClassifyResponse,
    ErrorResponse,
    LabelScore,
    PromptTokensDetails,
    RefusedTask,
    TaskCard,
    TaskList,
    Usage,
)
from ifedicl_serve.errors import TaskNotFoundError, TaskUnavailableError
from ifedicl_serve.registry import ListedTask, Task, TaskRegistry

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 422, 503)
}


def get_registry(request: Request) -> TaskRegistry:
    """The tasks this server has."""
    return request.app.state.ifedicl_registry


def get_classifier(request: Request) -> Classifier:
    """The classifier on this server's engine."""
    return request.app.state.ifedicl_classifier


Registry = Annotated[TaskRegistry, Depends(get_registry)]
ClassifierDep = Annotated[Classifier, Depends(get_classifier)]

router = APIRouter(route_class=TaskRoute, tags=["tasks"])


@router.post("/classify", include_in_schema=False)
async def classify_elsewhere() -> None:
    """In place of vLLM's own route, which knows no tasks and which --api-key does not guard."""
    raise TaskNotFoundError("no tasks are served here; send the request to /v1/classify")


@router.post("/v1/classify", responses=ERRORS)
async def classify(
    body: ClassifyRequest, registry: Registry, classifier: ClassifierDep
) -> ClassifyResponse:
    """Classify one text or a list of texts with a task."""
    task = registry.get(body.task)
    try:
        scored = await classifier.classify(task, body.texts, body.truncate)
    except TaskUnavailableError:  # replaced before a worker needed it, perhaps
        task = await asyncio.to_thread(registry.successor, task)
        scored = await classifier.classify(task, body.texts, body.truncate)
    return ClassifyResponse(
        id=f"classify-{uuid4().hex}",
        created=int(time.time()),
        model=task.name,
        task_digest=task.digest,
        data=[_result(index, task, result, body.top_k) for index, result in enumerate(scored)],
        usage=_usage(scored),
    )


@router.get("/v1/tasks")
async def list_tasks(registry: Registry) -> TaskList:
    """Every artifact in the tasks directory: those that serve, and why others do not."""
    ready = [task_card(task) for task in registry.tasks.values()]
    refused = [RefusedTask(id=name, reason=why) for name, why in registry.refused.items()]
    return TaskList(data=[*ready, *refused])


@router.get("/v1/tasks/{name}", responses={s: ERRORS[s] for s in (404, 422)})
async def get_task(name: str, registry: Registry) -> TaskCard:
    """One task's labels, template and provenance."""
    return task_card(registry.get(name))


def _result(index: int, task: Task, scored: Scored, top_k: int | None) -> Classification:
    names = (label.name for label in task.spec.labels)
    scores = [
        LabelScore(label=name, score=float(score))
        for name, score in zip(names, scored.probabilities, strict=True)
    ]
    scores.sort(key=lambda score: score.score, reverse=True)
    return Classification(
        index=index,
        label=scores[0].label,
        score=scores[0].score,
        scores=scores[:top_k],
        prompt_tokens=scored.prompt_tokens,
    )


def _usage(scored: list[Scored]) -> Usage:
    tokens = sum(result.prompt_tokens for result in scored)
    cached = sum(result.cached_tokens for result in scored)
    return Usage(
        prompt_tokens=tokens,
        total_tokens=tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )


def task_card(task: ListedTask) -> TaskCard:
    """What a caller may know about a task."""
    spec = task.spec
    return TaskCard(
        id=spec.name,
        digest=task.digest,
        labels=[label.name for label in spec.labels],
        template=spec.prompt.template,
        base_model=spec.model.name,
        layers=list(spec.layers),
        sites=list(spec.sites),
        metrics=spec.calibration.metrics,
    )
