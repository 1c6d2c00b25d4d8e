"""Our routes on vLLM's own API server: a `vllm.endpoint_plugins` entry point."""

import asyncio
import logging
from argparse import Namespace
from typing import Any

from fastapi import FastAPI

from api.access.admin_key import AdminKey
from api.classify.classifier import Classifier
from api.classify.encoder import PromptEncoder
from api.classify.engine import GenerationEngine, LabelEngine, PoolingEngine
from api.errors import on_error
from api.follow import count_tasks, follow
from api.http import admin, classify, page, ready, tasks
from api.limits.admission import Admission
from api.observe import scrape
from api.vllm.admission import admit_classifications
from api.vllm.drain import drain_before_shutdown
from api.vllm.generate import ListedModels, serve_tasks_as_models
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
        key = AdminKey.configured()
        app.state.ifedicl_admin_key = key
        app.include_router(classify.router)
        app.include_router(tasks.router)
        app.include_router(ready.router)
        app.state.ifedicl_scrape = scrape.Scrape(scrape.render)
        app.include_router(scrape.router)
        app.include_router(page.router)
        app.mount(page.MOUNT, page.files)
        app.include_router(admin.closed_router if key is None else admin.router)
        app.add_exception_handler(IFedICLError, on_error)  # raised on vLLM's own routes

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Validate every artifact; bad ones are listed with their reason and stop nothing."""
        from api.vllm.queue_time import record_queue_time  # a subclass of vLLM's

        model_config = engine_client.model_config
        tokenizer = engine_client.renderer.get_tokenizer()
        tasks: TaskConfig = args.additional_config
        model = ModelIdentity.of(model_config.model)
        registry = TaskRegistry(tasks.tasks_dir, model, tokenizer, tasks.trusted)
        for reason in registry.refused.values():
            logger.warning("Refused artifact: %s", reason)
        logger.info("Serving %d tasks from %s", len(registry.tasks), registry.folder)
        count_tasks(registry)
        state.ifedicl_registry = registry
        state.ifedicl_store = TaskEditor(
            registry,
            model_config.get_total_num_hidden_layers(),
            model_config.get_hidden_size(),
        )
        record_queue_time(engine_client)
        state.ifedicl_admission = Admission(args.ifedicl.max_queued_texts)
        admit_classifications(engine_client)
        drain_before_shutdown(engine_client, state.ifedicl_admission)
        state.ifedicl_follower = asyncio.create_task(follow(registry))  # a task must be held
        state.openai_serving_models = ListedModels(state.openai_serving_models, registry)
        engine: LabelEngine = PoolingEngine(engine_client)
        longest_prompt = model_config.max_model_len
        if model_config.runner_type == "generate":
            engine = GenerationEngine(engine_client)
            longest_prompt -= 1  # for the token that is generated
            serve_tasks_as_models(state, registry)
        state.ifedicl_classifier = Classifier(engine, PromptEncoder(tokenizer, longest_prompt))
