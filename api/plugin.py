"""Our routes on vLLM's own API server: a `vllm.endpoint_plugins` entry point."""

import asyncio
import logging
from argparse import Namespace
from typing import Any

from fastapi import FastAPI

from api.access.admin_key import AdminKey
from api.classify.classifier import Classifier
from api.classify.encoder import PromptEncoder
from api.classify.engine import GenerationEngine, PoolingEngine
from api.errors import on_error
from api.follow import count_tasks, follow
from api.http import admin, classify, page, ready, tasks
from api.limits.admission import Admission
from api.observe import scrape
from api.vllm.admission import admit_classifications
from api.vllm.border import name_tasks_ourselves
from api.vllm.drain import drain_before_shutdown
from api.vllm.generate import serve_tasks_as_models
from api.vllm.listed import list_tasks_as_models
from api.vllm.upgrades import decline_upgrades
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import IFedICLError
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.tasks.editor import TaskEditor
from ifedicl_serve.tasks.registry import TaskRegistry

logger = logging.getLogger("vllm.ifedicl")  # vLLM formats and shows what is logged below "vllm"


class ClassifyEndpoints:
    """Adds `/v1` routes and the page, makes tasks models, and follows the artifact folder."""

    name = "ifedicl-api"
    required_tasks = ("classify", "generate")

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes; vLLM lets them replace its own `/classify` and `/metrics`."""
        decline_upgrades()
        key = AdminKey.configured()
        app.state.ifedicl_admin_key = key
        app.include_router(classify.router)
        app.include_router(tasks.router)
        app.include_router(ready.router)
        app.state.ifedicl_scrape = scrape.Scrape(scrape.render)
        app.include_router(scrape.router)
        app.include_router(page.router)
        app.include_router(admin.closed_router if key is None else admin.router)
        app.add_exception_handler(IFedICLError, on_error)  # raised on vLLM's own routes

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Validate every artifact; bad ones are listed with their reason and stop nothing."""
        models = state.openai_serving_models
        registry = _registry(engine_client, args.additional_config, _names(models))
        admission = Admission(args.ifedicl.max_queued_requests)
        state.ifedicl_registry = registry
        state.ifedicl_store = _editor(engine_client, registry)
        state.ifedicl_admission = admission
        state.ifedicl_classifier = _classifier(engine_client)
        state.ifedicl_follower = asyncio.create_task(follow(registry))  # a task must be held
        _patch(engine_client, state, admission, registry)


def _names(models: Any) -> frozenset[str]:
    """What vLLM's routes take for a model of vLLM's own, the base model or a LoRA adapter."""
    return frozenset([*(model.name for model in models.base_model_paths), *models.lora_requests])


def _registry(engine_client: Any, tasks: TaskConfig, taken: frozenset[str]) -> TaskRegistry:
    model = ModelIdentity.of(
        engine_client.model_config.model,
        download_dir=engine_client.vllm_config.load_config.download_dir,
    )
    tokenizer = engine_client.renderer.get_tokenizer()
    model.refuse_other_tokenizer(tokenizer)
    registry = TaskRegistry(tasks.tasks_dir, model, tokenizer, tasks.trusted, taken)
    for reason in registry.refused.values():
        logger.warning("Refused artifact: %s", reason)
    logger.info("Serving %d tasks from %s", len(registry.tasks), registry.folder)
    count_tasks(registry)
    return registry


def _editor(engine_client: Any, registry: TaskRegistry) -> TaskEditor:
    config = engine_client.model_config
    return TaskEditor(registry, config.get_total_num_hidden_layers(), config.get_hidden_size())


def _classifier(engine_client: Any) -> Classifier:
    config = engine_client.model_config
    tokenizer = engine_client.renderer.get_tokenizer()
    if config.runner_type == "generate":
        longest_prompt = config.max_model_len - 1  # for the token that is generated
        return Classifier(GenerationEngine(engine_client), PromptEncoder(tokenizer, longest_prompt))
    return Classifier(PoolingEngine(engine_client), PromptEncoder(tokenizer, config.max_model_len))


def _patch(engine_client: Any, state: Any, admission: Admission, registry: TaskRegistry) -> None:
    """Change what `api.vllm` changes of vLLM's own in this process."""
    from api.vllm.queue_time import record_queue_time  # a subclass of vLLM's

    record_queue_time(engine_client)
    name_tasks_ourselves(engine_client)
    admit_classifications(engine_client)
    drain_before_shutdown(engine_client, admission)
    list_tasks_as_models(state, registry)
    if engine_client.model_config.runner_type == "generate":
        serve_tasks_as_models(state, registry)
