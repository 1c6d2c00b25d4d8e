"""Which tasks a request is for, and whether that is too much for one request."""

from api.access.allowed import VisibleTasks, find_task
from ifedicl_serve.errors import IFedICLError, InputError, TaskNotFoundError
from ifedicl_serve.schema import ALL, MAX_RESULTS, MAX_SCORES, MAX_TASKS, ClassifyRequest
from ifedicl_serve.tasks.task import Task

# By name, in the order of the request; an error where there is none of that name.
Found = dict[str, Task | IFedICLError]


async def find_tasks(tasks: VisibleTasks, body: ClassifyRequest) -> Found:
    """What each name that is asked for stands for. Raises TaskNotFoundError if the only one is no
    task's, InputError if all there are would be too many."""
    if body.task is not None:
        return {body.task: await find_task(tasks, body.task)}
    names = _all(tasks) if body.tasks == ALL else body.tasks or []
    return {name: await _found(tasks, name) for name in names}


def refuse_too_many(found: Found, texts: int) -> None:
    """Raise InputError for more results or scores than a request may have. All labels are scored,
    however many of them are returned (`top_k`)."""
    if texts * len(found) > MAX_RESULTS:
        raise InputError(
            f"{texts} texts for {len(found)} tasks make {texts * len(found)} results, expected at "
            f"most {MAX_RESULTS}; send fewer texts at once"
        )
    labels = sum(len(task.spec.labels) for task in found.values() if isinstance(task, Task))
    if texts * labels > MAX_SCORES:
        raise InputError(
            f"{texts} texts with {labels} labels each make {texts * labels} scores, expected at "
            f"most {MAX_SCORES}; send fewer texts at once"
        )


def _all(tasks: VisibleTasks) -> list[str]:
    names = list(tasks.tasks)
    if not names:
        raise TaskNotFoundError(
            "no task is loaded, or none for this key; put an artifact folder under the tasks "
            "directory"
        )
    if len(names) > MAX_TASKS:
        raise InputError(
            f'"*" stands for {len(names)} tasks here, expected at most {MAX_TASKS} in a request; '
            "name those you want"
        )
    return names


async def _found(tasks: VisibleTasks, name: str) -> Task | TaskNotFoundError:
    try:
        return await find_task(tasks, name)
    except TaskNotFoundError as error:
        return error
