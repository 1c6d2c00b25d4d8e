"""The tasks that the running request's API key may use: of all of them, or of the registry."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from api.access.keys import TaskPatterns, allows
from api.observe.context import current_request
from ifedicl_serve.errors import TaskNotFoundError
from ifedicl_serve.tasks.registry import TaskRegistry
from ifedicl_serve.tasks.task import ListedTask, Task

# One thread: whoever asks for a task meanwhile waits for the same check, and holds no other.
reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ifedicl-read")


class AllowedTasks:
    """A registry as a key with an allow-list sees it: what it may not use is not there."""

    def __init__(self, registry: TaskRegistry, allowed: TaskPatterns) -> None:
        self._registry = registry
        self._allowed = allowed
        self.refused: dict[str, str] = {}  # a reason may tell of other tasks

    @property
    def tasks(self) -> dict[str, ListedTask]:
        """The tasks it may use, by name."""
        tasks = self._registry.tasks.items()
        return {name: task for name, task in tasks if allows(self._allowed, name)}

    def get(self, name: str) -> Task:
        """The task of that name. Raises TaskNotFoundError, in the same words for one that it may
        not use and for one that is not there."""
        if not allows(self._allowed, name):
            raise self._not_found(name)
        try:
            return self._registry.get(name)
        except TaskNotFoundError:  # its message names the tasks of others
            raise self._not_found(name) from None

    def reads(self, name: str) -> bool:
        """As `TaskRegistry.reads`."""
        return allows(self._allowed, name) and self._registry.reads(name)

    def successor(self, task: Task) -> Task:
        """As `TaskRegistry.successor`, of a task that `get` returned."""
        try:
            return self._registry.successor(task)
        except TaskNotFoundError:
            raise self._not_found(task.name) from None

    def _not_found(self, name: str) -> TaskNotFoundError:
        return TaskNotFoundError(
            f"task {name!r} is not loaded, or not for this key; it may use: "
            f"{', '.join(self._allowed)}"
        )


VisibleTasks = TaskRegistry | AllowedTasks


def visible_tasks(registry: TaskRegistry) -> VisibleTasks:
    """All of them, unless the request's key is for some alone."""
    allowed = current_request().allowed
    return registry if allowed is None else AllowedTasks(registry, allowed)


async def find_task(registry: VisibleTasks, name: str) -> Task:
    """`get`, without keeping the event loop waiting for files."""
    if not registry.reads(name):
        return registry.get(name)
    return await asyncio.get_running_loop().run_in_executor(reading, registry.get, name)
