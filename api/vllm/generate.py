"""Tasks as models of vLLM's own completion routes, under their names, as LoRA users know it.

vLLM's routes, protocols and streams stay as they are. Knows no prompts: what a caller sends is what
is adapted.
"""

from copy import copy
from typing import Any

from api.access.allowed import find_task, visible_tasks
from api.classify.engine import key_of
from api.observe.context import current_request
from ifedicl_serve.errors import InputError
from ifedicl_serve.plugin.request import TaskRequest
from ifedicl_serve.tasks.registry import TaskRegistry
from ifedicl_serve.tasks.task import unavailable


def serve_tasks_as_models(state: Any, registry: TaskRegistry) -> None:
    """Put proxies in the place of what serves `/v1/completions` and `/v1/chat/completions`.

    Upstream: a request's `model` is the base model or a LoRA adapter, else it is refused, and the
    answer names it (vllm/entrypoints/openai/completion, .../chat_completion).
    Why: a task is asked for by its name, and callers must not name it to the engine themselves: the
    proxy finds the task, tells `border` of it, and lets vLLM go on.
    Delete when vLLM lets a plugin resolve the name of a model.
    """
    for name in ("openai_serving_completion", "openai_serving_chat"):
        serving = getattr(state, name)
        if not isinstance(serving, TaskServing):
            setattr(state, name, TaskServing(serving, registry))


class TaskServing:
    """One of vLLM's serving objects, for which tasks are models too.

    A name of the base model's (or of a LoRA adapter) means that, also if a task has it. Raises
    TaskNotFoundError, InputError, and TaskUnavailableError (a stream ends with vLLM's error).
    """

    def __init__(self, serving: Any, registry: TaskRegistry) -> None:
        self.serving = serving
        self.registry = registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self.serving, name)

    async def create_completion(self, request: Any, raw_request: Any = None) -> Any:
        """As `OpenAIServingCompletion`."""
        return await self._create("create_completion", request, raw_request)

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        """As `OpenAIServingChat`."""
        return await self._create("create_chat_completion", request, raw_request)

    async def _create(self, method: str, request: Any, raw_request: Any) -> Any:
        models, name, context = self.serving.models, request.model, current_request()
        limited = context.allowed is not None  # to tasks: the base model is none
        if not limited and (not name or models.is_base_model(name) or name in models.lora_requests):
            return await getattr(self.serving, method)(request, raw_request)

        from vllm.exceptions import GenerationError

        task = await find_task(visible_tasks(self.registry), name or "")
        context.tasks = (task.name,)
        if request.use_beam_search:
            raise InputError(
                "beam search asks for each token with a prompt of its own, in which a task's tail "
                "would begin elsewhere; leave use_beam_search out"
            )
        if context.tenant:
            request.cache_salt = context.cache_salt(request.cache_salt)
        adapted = copy(self.serving)
        adapted.models = NamedModel(models, name)
        context.asked = TaskRequest(key_of(task), tail=task.tail) if task.adapts else None
        try:
            return await getattr(adapted, method)(request, raw_request)
        except GenerationError as error:
            raise unavailable(task) from error


class NamedModel:
    """vLLM's models, with one more name for the base model."""

    def __init__(self, models: Any, name: str) -> None:
        self.models = models
        self.name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.models, name)

    def is_base_model(self, model_name: str) -> bool:
        return model_name == self.name or self.models.is_base_model(model_name)

    def model_name(self, lora_request: Any = None) -> str:
        """The name in a response."""
        return self.name
