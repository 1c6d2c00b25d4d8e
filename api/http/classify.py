"""`POST /v1/classify`: the path of a request."""

import asyncio

from fastapi import APIRouter, Request, Response

from api.access.allowed import VisibleTasks, find_task
from api.classify.classifier import Classifier, Scored
from api.errors import TaskRoute
from api.http.answer import answer
from api.http.dependencies import ERRORS, AdmissionDep, ClassifierDep, Options, Tasks
from api.limits.deadline import answer_in_time
from api.observe import metrics
from api.observe.context import current_request
from ifedicl_serve.errors import InputError, TaskNotFoundError, TaskUnavailableError
from ifedicl_serve.schema import MAX_SCORES, ClassifyRequest, ClassifyResponse
from ifedicl_serve.tasks.task import Task

router = APIRouter(route_class=TaskRoute, tags=["tasks"])


@router.post("/classify", include_in_schema=False)
async def classify_elsewhere() -> None:
    """In place of vLLM's own route, which knows no tasks and which --api-key does not guard."""
    raise TaskNotFoundError("no tasks are served here; send the request to /v1/classify")


@router.post("/v1/classify", response_model=ClassifyResponse, responses=ERRORS)
async def classify(
    body: ClassifyRequest,
    request: Request,
    tasks: Tasks,
    classifier: ClassifierDep,
    admission: AdmissionDep,
    options: Options,
) -> Response:
    """Classify one text or a list of texts with a task."""
    task = await find_task(tasks, body.task)
    _refuse_too_many_scores(task, body)
    current_request().about(task.name, len(body.texts))
    with admission.hold(len(body.texts) * len(task.trie.nodes)):
        work = _by_who_serves(task, tasks, classifier, body)
        task, scored = await answer_in_time(work, request, options.seconds(body.timeout))
    _count(task, scored, body.adapted)
    return answer(task, scored, body)


def _refuse_too_many_scores(task: Task, body: ClassifyRequest) -> None:
    """All labels are scored, however many of them are returned (`top_k`)."""
    texts, labels = len(body.texts), len(task.spec.labels)
    if texts * labels > MAX_SCORES:
        raise InputError(
            f"{texts} texts with {labels} labels each make {texts * labels} scores, expected at "
            f"most {MAX_SCORES}; send fewer texts at once"
        )


async def _by_who_serves(
    task: Task, tasks: VisibleTasks, classifier: Classifier, body: ClassifyRequest
) -> tuple[Task, list[Scored]]:
    """The scores, and the task that gave them: another version if it was replaced meanwhile."""
    asked = body.texts, body.truncate, body.adapted
    try:
        return task, await classifier.classify(task, *asked)
    except TaskUnavailableError:  # replaced before a worker needed it, perhaps
        task = await asyncio.to_thread(tasks.successor, task)
        return task, await classifier.classify(task, *asked)


def _count(task: Task, scored: list[Scored], adapted: bool) -> None:
    """Texts that a task classified."""
    if not adapted:
        return
    metrics.TEXTS.labels(task.name).inc(len(scored))
    metrics.PROMPT_TOKENS.labels(task.name).inc(sum(result.prompt_tokens for result in scored))
    metrics.CACHED_TOKENS.labels(task.name).inc(sum(result.cached_tokens for result in scored))
    for result in scored:
        best = int(result.probabilities.argmax())
        metrics.LABELS.labels(task.name, task.spec.labels[best].name).inc()
        metrics.TOP_SCORE.labels(task.name).observe(float(result.probabilities[best]))
