"""`GET` of `/v1/tasks`, a task and its coefficients."""

import asyncio

from fastapi import APIRouter
from torch import Tensor

from api.access.allowed import VisibleTasks, find_task
from api.errors import TaskRoute
from api.http.cards import task_card, task_summary
from api.http.dependencies import ERRORS, Tasks
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.contract.injection import BETA, LAMBDA, SITES
from ifedicl_serve.errors import ArtifactError, TaskUnavailableError
from ifedicl_serve.schema import Coefficients, RefusedTask, TaskCard, TaskList
from ifedicl_serve.tasks.task import Task

router = APIRouter(route_class=TaskRoute, tags=["tasks"])


@router.get("/v1/tasks")
async def list_tasks(tasks: Tasks) -> TaskList:
    """Every artifact in the tasks directory: those that serve, and why others do not."""
    ready = [task_summary(task) for task in tasks.tasks.values()]
    refused = [RefusedTask(id=name, reason=why) for name, why in tasks.refused.items()]
    return TaskList(data=[*ready, *refused])


@router.get("/v1/tasks/{name}", responses={s: ERRORS[s] for s in (404, 422)})
async def get_task(name: str, tasks: Tasks) -> TaskCard:
    """One task's labels, template and provenance."""
    return task_card(await find_task(tasks, name))


@router.get("/v1/tasks/{name}/coefficients", responses={s: ERRORS[s] for s in (404, 422, 503)})
async def get_coefficients(name: str, tasks: Tasks) -> Coefficients:
    """What one task's calibration fitted: beta and lambda of every layer and site."""
    task = await find_task(tasks, name)
    task, coefficients = await asyncio.to_thread(_read_coefficients, tasks, task)
    return Coefficients(
        id=task.name,
        digest=task.digest,
        layers=list(range(task.spec.num_layers)),
        sites=list(SITES),
        beta=coefficients[..., BETA].tolist(),
        lambda_=coefficients[..., LAMBDA].tolist(),
    )


def _read_coefficients(tasks: VisibleTasks, task: Task) -> tuple[Task, Tensor]:
    """Coefficients [layers, sites, 2], which no registry keeps, and the task they are of: its
    successor, if it was replaced. Raises TaskUnavailableError, or TaskNotFoundError if it is gone.
    """
    try:
        return task, _read(task)
    except ArtifactError:  # replaced or removed since, perhaps
        task = tasks.successor(task)
    try:
        return task, _read(task)
    except ArtifactError as error:
        raise TaskUnavailableError(
            f"the artifact of task {task.name!r} cannot be read; send the request again"
        ) from error


def _read(task: Task) -> Tensor:
    return load_artifact(task.folder, digest=task.digest).coefficients
