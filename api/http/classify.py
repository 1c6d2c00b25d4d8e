"""`POST /v1/classify`: the path of a request."""

from fastapi import APIRouter, Request, Response

from api.access.allowed import VisibleTasks
from api.classify.classifier import Classifier, Scored
from api.errors import TaskRoute, status_of
from api.http.answer import answer
from api.http.answers import AllAnswers, ask, refuse_unanswered
from api.http.asked import find_tasks, refuse_too_many
from api.http.dependencies import ERRORS, AdmissionDep, ClassifierDep, Options, Tasks
from api.limits.admission import Admission
from api.limits.deadline import answer_in_time
from api.observe import metrics
from api.observe.context import current_request
from ifedicl_serve.errors import TaskNotFoundError
from ifedicl_serve.schema import ClassifyRequest, ClassifyResponse, ClassifyTasksResponse
from ifedicl_serve.tasks.task import Task

router = APIRouter(route_class=TaskRoute, tags=["tasks"])


@router.post("/classify", include_in_schema=False)
async def classify_elsewhere() -> None:
    """In place of vLLM's own route, which knows no tasks and which --api-key does not guard."""
    raise TaskNotFoundError("no tasks are served here; send the request to /v1/classify")


@router.post(
    "/v1/classify", response_model=ClassifyResponse | ClassifyTasksResponse, responses=ERRORS
)
async def classify(
    body: ClassifyRequest,
    request: Request,
    tasks: Tasks,
    classifier: ClassifierDep,
    admission: AdmissionDep,
    options: Options,
) -> Response:
    """Classify one text or a list of texts with a task, or with several at once.

    With `task` the first error is the answer. With `tasks` each result is of one text and task, and
    has an error in its place if there is none; if there is no result at all, the answer is one of
    those errors: the first of the highest status.
    """
    work = _answers(body, tasks, classifier, admission)
    answers = await answer_in_time(work, request, options.seconds(body.timeout))
    refuse_unanswered(answers, body)
    _count(answers, body.adapted)
    return answer(answers, body)


async def _answers(
    body: ClassifyRequest, tasks: VisibleTasks, classifier: Classifier, admission: Admission
) -> AllAnswers:
    found = await find_tasks(tasks, body)
    refuse_too_many(found, len(body.texts))
    served = [task for task in found.values() if isinstance(task, Task)]
    current_request().about([task.name for task in served], len(body.texts))
    with admission.hold(len(body.texts) * classifier.requests(served, body.adapted, body.truncate)):
        return await ask(found, tasks, classifier, body)


def _count(answers: AllAnswers, adapted: bool) -> None:
    """What tasks did, and what they failed to do."""
    for of_one in answers.values():
        if of_one.task is None or not of_one.scored:
            name, error = of_one.task.name if of_one.task else "", of_one.errors[0]
            current_request().lost[name] = status_of(error).value, type(error).__name__
        elif adapted:
            _count_texts(of_one.task, of_one.scored)


def _count_texts(task: Task, scored: list[Scored]) -> None:
    """Texts that a task classified."""
    metrics.TEXTS.labels(task.name).inc(len(scored))
    metrics.PROMPT_TOKENS.labels(task.name).inc(sum(result.prompt_tokens for result in scored))
    metrics.CACHED_TOKENS.labels(task.name).inc(sum(result.cached_tokens for result in scored))
    for result in scored:
        best = int(result.probabilities.argmax())
        metrics.LABELS.labels(task.name, task.spec.labels[best].name).inc()
        metrics.TOP_SCORE.labels(task.name).observe(float(result.probabilities[best]))
