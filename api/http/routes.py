"""The routes: `POST /v1/classify`, and `GET` of `/v1/tasks`, a task and its coefficients."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import to_json

from api.access.allowed import VisibleTasks, find_task, visible_tasks
from api.classify.classifier import Classifier, Scored
from api.http.coefficients import read_coefficients
from api.http.errors import TaskRoute
from api.limits.admission import Admission
from api.limits.deadline import answer_in_time
from api.observe import metrics
from api.observe.context import current_request
from api.options import ServeOptions
from ifedicl_serve.contract.injection import BETA, LAMBDA, SITES
from ifedicl_serve.errors import InputError, TaskNotFoundError, TaskUnavailableError
from ifedicl_serve.schema import (
    MAX_SCORES,
    CalibrationCard,
    ClassifyRequest,
    ClassifyResponse,
    Coefficients,
    ErrorResponse,
    PromptTokensDetails,
    RefusedTask,
    TaskCard,
    TaskList,
    TaskSummary,
    Usage,
)
from ifedicl_serve.tasks.task import ListedTask, Task

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 408, 413, 422, 503, 504)
}


def get_registry(request: Request) -> VisibleTasks:
    """The tasks this server has, as far as the request's key may use them."""
    return visible_tasks(request.app.state.ifedicl_registry)


def get_classifier(request: Request) -> Classifier:
    """The classifier on this server's engine."""
    return request.app.state.ifedicl_classifier


def get_admission(request: Request) -> Admission:
    """Counts what this process has in flight."""
    return request.app.state.ifedicl_admission


def get_options(request: Request) -> ServeOptions:
    """This server's bounds."""
    return request.app.state.args.ifedicl


Registry = Annotated[VisibleTasks, Depends(get_registry)]
ClassifierDep = Annotated[Classifier, Depends(get_classifier)]
AdmissionDep = Annotated[Admission, Depends(get_admission)]
Options = Annotated[ServeOptions, Depends(get_options)]

router = APIRouter(route_class=TaskRoute, tags=["tasks"])


@router.post("/classify", include_in_schema=False)
async def classify_elsewhere() -> None:
    """In place of vLLM's own route, which knows no tasks and which --api-key does not guard."""
    raise TaskNotFoundError("no tasks are served here; send the request to /v1/classify")


@router.post("/v1/classify", response_model=ClassifyResponse, responses=ERRORS)
async def classify(
    body: ClassifyRequest,
    request: Request,
    registry: Registry,
    classifier: ClassifierDep,
    admission: AdmissionDep,
    options: Options,
) -> Response:
    """Classify one text or a list of texts with a task."""
    task = await find_task(registry, body.task)
    _refuse_too_many_scores(task, body)
    context = current_request()
    context.task, context.texts = task.name, len(body.texts)
    seconds = min(body.timeout or options.request_timeout, options.request_timeout)
    with admission.hold(len(body.texts)):
        work = _classified(body, task, registry, classifier)
        task, scored = await answer_in_time(work, request, seconds)
    if body.adapted:
        metrics.count_texts(task, scored)
    return Response(_answer(body, task, scored), media_type="application/json")


@router.get("/v1/tasks")
async def list_tasks(registry: Registry) -> TaskList:
    """Every artifact in the tasks directory: those that serve, and why others do not."""
    ready = [task_summary(task) for task in registry.tasks.values()]
    refused = [RefusedTask(id=name, reason=why) for name, why in registry.refused.items()]
    return TaskList(data=[*ready, *refused])


@router.get("/v1/tasks/{name}", responses={s: ERRORS[s] for s in (404, 422)})
async def get_task(name: str, registry: Registry) -> TaskCard:
    """One task's labels, template and provenance."""
    return task_card(await find_task(registry, name))


@router.get("/v1/tasks/{name}/coefficients", responses={s: ERRORS[s] for s in (404, 422, 503)})
async def get_coefficients(name: str, registry: Registry) -> Coefficients:
    """What one task's calibration fitted: beta and lambda of every layer and site."""
    task = await find_task(registry, name)
    task, coefficients = await asyncio.to_thread(read_coefficients, registry, task)
    return Coefficients(
        id=task.name,
        digest=task.digest,
        layers=list(range(task.spec.num_layers)),
        sites=list(SITES),
        beta=coefficients[..., BETA].tolist(),
        lambda_=coefficients[..., LAMBDA].tolist(),
    )


def _refuse_too_many_scores(task: Task, body: ClassifyRequest) -> None:
    labels = len(task.spec.labels)
    wanted = len(body.texts) * min(body.top_k or labels, labels)
    if wanted > MAX_SCORES:
        raise InputError(
            f"{len(body.texts)} texts with {wanted // len(body.texts)} scores each make {wanted}, "
            f"expected at most {MAX_SCORES}; send fewer texts at once, or a smaller top_k"
        )


async def _classified(
    body: ClassifyRequest, task: Task, registry: Registry, classifier: Classifier
) -> tuple[Task, list[Scored]]:
    """The scores, and the task that gave them: another version if it was replaced meanwhile."""
    try:
        scored = await classifier.classify(task, body.texts, body.truncate, body.adapted)
    except TaskUnavailableError:  # replaced before a worker needed it, perhaps
        task = await asyncio.to_thread(registry.successor, task)
        scored = await classifier.classify(task, body.texts, body.truncate, body.adapted)
    return task, scored


def _answer(body: ClassifyRequest, task: Task, scored: list[Scored]) -> bytes:
    """A `ClassifyResponse` as JSON. Not made of its models: those of MAX_SCORES scores would hold
    up this process, and its probes, for seconds."""
    return to_json(
        {
            "id": f"classify-{current_request().id}",
            "object": "list",
            "created": int(time.time()),
            "model": task.name,
            "task_digest": task.digest,
            "adapted": body.adapted,
            "data": [_result(*one, task, body.top_k) for one in enumerate(scored)],
            "usage": _usage(scored),
        }
    )


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


def task_summary(task: ListedTask) -> TaskSummary:
    """What the list says about a task."""
    return TaskSummary(**_summary(task))


def task_card(task: ListedTask) -> TaskCard:
    """All that a caller may know about a task."""
    made = task.spec.calibration
    return TaskCard(
        **_summary(task),
        verbalizations=task.spec.verbalizations,
        calibration=CalibrationCard(
            loss=made.loss,
            rounds=made.rounds,
            round_losses=list(made.round_losses),
            seed=made.seed,
            clients=len(made.client_sizes),
            examples=sum(made.client_sizes),
            settings=made.settings,
            wire_bytes=made.wire_bytes,
            versions=made.versions,
        ),
    )


def _summary(task: ListedTask) -> dict[str, Any]:
    spec = task.spec
    return {
        "id": spec.name,
        "digest": task.digest,
        "labels": [label.name for label in spec.labels],
        "template": spec.prompt.template,
        "base_model": spec.model.name,
        "layers": list(spec.layers),
        "sites": list(spec.sites),
        "metrics": spec.calibration.metrics,
    }
