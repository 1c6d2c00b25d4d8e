"""A task's coefficients: not kept by the registry, but read from its artifact when asked for."""

from torch import Tensor

from api.access.allowed import VisibleTasks
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.errors import ArtifactError, TaskUnavailableError
from ifedicl_serve.tasks.task import Task


def read_coefficients(registry: VisibleTasks, task: Task) -> tuple[Task, Tensor]:
    """Coefficients [layers, sites, 2], and the task they are of: its successor, if it was replaced.

    Reads files, so run it in a thread. Raises TaskUnavailableError, or TaskNotFoundError if the
    task is gone.
    """
    try:
        return task, _read(task)
    except ArtifactError:  # replaced or removed since, perhaps
        task = registry.successor(task)
    try:
        return task, _read(task)
    except ArtifactError as error:
        raise TaskUnavailableError(
            f"the artifact of task {task.name!r} cannot be read; send the request again"
        ) from error


def _read(task: Task) -> Tensor:
    return load_artifact(task.folder, digest=task.digest).coefficients
