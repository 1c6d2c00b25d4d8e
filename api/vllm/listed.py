"""Tasks in vLLM's list of models (`GET /v1/models`)."""

from typing import Any

from api.access.allowed import visible_tasks
from api.observe.context import current_request
from ifedicl_serve.tasks.registry import TaskRegistry


def list_tasks_as_models(state: Any, registry: TaskRegistry) -> None:
    """Put a proxy in the place of a server's models, which lists the tasks too.

    Upstream: the list is of the base model and of LoRA adapters
    (vllm/entrypoints/openai/models/serving.py).
    Why: who may name a task as `model` looks there for its name, as for an adapter's.
    Delete when vLLM lets a plugin add models to the list.
    """
    if not isinstance(state.openai_serving_models, ListedModels):
        state.openai_serving_models = ListedModels(state.openai_serving_models, registry)


class ListedModels:
    """vLLM's models, with the tasks in their list."""

    def __init__(self, models: Any, registry: TaskRegistry) -> None:
        self.models = models
        self.registry = registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self.models, name)

    async def show_available_models(self) -> Any:
        """The base model and every task as its child; for a key with tasks of its own, those."""
        listed = await self.models.show_available_models()
        base = listed.data[0]
        tasks = [
            base.model_copy(update={"id": name, "root": str(task.folder), "parent": base.id})
            for name, task in visible_tasks(self.registry).tasks.items()
        ]
        limited = current_request().allowed is not None
        listed.data = tasks if limited else [*listed.data, *tasks]
        return listed
