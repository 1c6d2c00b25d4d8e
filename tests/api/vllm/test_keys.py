"""API keys before vLLM's own routes: whose tasks are models, and who sees the base model."""

import pytest
from fastapi import FastAPI
from vllm.entrypoints.serve.engine.protocol import ModelCard, ModelList

from api.vllm.generate import TaskServing
from api.vllm.listed import ListedModels
from tests.api.access.test_access import KEYS, bearer
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine


class Models:
    """vLLM's list of models."""

    lora_requests = ("adapter",)

    def is_base_model(self, name: str) -> bool:
        return name == "base"

    async def show_available_models(self):
        return ModelList(data=[ModelCard(id="base")])


class Serving:
    """vLLM's serving object; answers with the model it was asked for."""

    models = Models()

    async def create_completion(self, request, raw_request=None):
        return {"model": request.model}


class Completion:
    use_beam_search, cache_salt = False, None

    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize(
    ("key", "model", "status"),
    [("of-everybody", "base", 200), ("of-everybody", "sst2", 200), ("of-everybody", None, 200),
     ("of-a-team", "sst2", 200), ("of-a-team", "topics", 404), ("of-all-tasks", "topics", 200),
     ("of-all-tasks", "base", 404), ("of-all-tasks", "adapter", 404), ("of-all-tasks", None, 404)],
)  # fmt: skip
def test_a_key_generates_with_its_tasks_alone_and_never_with_the_base_model(
    registry, tokenizer, key, model, status
):
    app: FastAPI = application(
        registry, tokenizer, FakeEngine(), api_keys=["of-everybody", *KEYS], keys=KEYS
    )
    serving = TaskServing(Serving(), registry)
    listed = ListedModels(Models(), registry)

    @app.post("/v1/completions")
    async def complete() -> dict[str, str | None]:
        return await serving.create_completion(Completion(model))

    @app.get("/v1/models")
    async def models() -> list[str]:
        return [card.id for card in (await listed.show_available_models()).data]

    with running(app) as client:
        assert client.post("/v1/completions", headers=bearer(key)).status_code == status
        seen = client.get("/v1/models", headers=bearer(key)).json()
    assert ("base" in seen) == (key == "of-everybody")
    assert ("topics" in seen) == (key != "of-a-team")
