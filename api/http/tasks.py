"""`GET` of `/v1/tasks`, a task and what was fitted for it."""

import asyncio

from fastapi import APIRouter

from api.access.allowed import VisibleTasks, find_task
from api.errors import TaskRoute
from api.http.cards import task_card, task_summary
from api.http.dependencies import ERRORS, Tasks
from api.http.fitted import fitted
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.errors import ArtifactError, TaskUnavailableError
from ifedicl_serve.schema import Fitted, RefusedTask, TaskCard, TaskList
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


@router.get("/v1/tasks/{name}/fitted", responses={s: ERRORS[s] for s in (404, 422, 503)})
async def get_fitted(name: str, tasks: Tasks) -> Fitted:
    """What one task's calibration fitted: numbers of every layer and site, and of every label."""
    return await asyncio.to_thread(_read_fitted, tasks, await find_task(tasks, name))


def _read_fitted(tasks: VisibleTasks, task: Task) -> Fitted:
    """From the artifact, as no registry keeps tensors: the task's, or, if it was replaced, its
    successor's. Raises TaskUnavailableError, or TaskNotFoundError if it is gone."""
    try:
        return _fitted(task)
    except ArtifactError:  # replaced or removed since, perhaps
        task = tasks.successor(task)
    try:
        return _fitted(task)
    except ArtifactError as error:
        raise TaskUnavailableError(
            f"the artifact of task {task.name!r} cannot be read; send the request again"
        ) from error


def _fitted(task: Task) -> Fitted:
    return fitted(load_artifact(task.folder, digest=task.digest))
