"""A server of three tasks on a free port; the routes and state are those of `api.plugin`."""

import pkgutil
import socket
import threading
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from transformers import AutoTokenizer

from api.classify.classifier import Classifier
from api.classify.encoder import PromptEncoder
from api.limits.admission import Admission
from api.options import ServeOptions
from api.plugin import ClassifyEndpoints, jobs_of
from api.serve import MIDDLEWARE
from ifedicl_serve.contract.artifact import VECTORS_FILE
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.tasks.editor import TaskEditor
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.fake_engine import FakeEngine
from tests.ifedicl_serve.factory import HIDDEN, LAYERS, MODEL, make_artifact

TINY_QWEN2 = Path(__file__).resolve().parents[2] / "examples" / "tiny_qwen2"
MAX_MODEL_LEN = 48


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_QWEN2)


@pytest.fixture(scope="session")
def registry(tokenizer, tmp_path_factory):
    """Tasks `sst2` (one trie node), `topics` (three), `fatal`, and two refused artifacts."""
    folder = tmp_path_factory.mktemp("tasks")
    make_artifact(folder / "sst2")
    make_artifact(
        folder / "topics",
        name="topics",
        labels=("world news", "business", "world sports", "world", "business of the world"),
        prompt=PromptTemplate.of("Text: {text}\nTopic:"),
    )
    make_artifact(folder / "fatal", name="fatal", seed=1)
    make_artifact(folder / "damaged", name="damaged")
    (folder / "damaged" / VECTORS_FILE).write_bytes(b"")
    make_artifact(
        folder / "stranger",
        name="stranger",
        model=MODEL.model_copy(update={"name": "elsewhere", "config_digest": "0"}),
    )
    return TaskRegistry(folder, MODEL, tokenizer)


@pytest.fixture(scope="module")
def engine():
    return FakeEngine()


def application(registry, tokenizer, engine, api_keys=(), **options):
    """The routes, as the environment's admin key decides, behind the middleware of
    `ifedicl serve`, and what they work on."""
    app = FastAPI()
    ClassifyEndpoints().attach_router(app)
    for middleware in MIDDLEWARE:
        app.add_middleware(pkgutil.resolve_name(middleware))
    app.state.args = Namespace(api_key=list(api_keys), ifedicl=ServeOptions(**options))
    app.state.engine_client = Namespace(errored=False)
    app.state.ifedicl_admission = Admission(app.state.args.ifedicl.max_queued_requests)
    app.state.ifedicl_registry = registry
    app.state.ifedicl_store = TaskEditor(registry, LAYERS, HIDDEN)
    classifier = Classifier(engine, PromptEncoder(tokenizer, MAX_MODEL_LEN))
    app.state.ifedicl_classifier = classifier
    app.state.ifedicl_jobs = jobs_of(
        classifier, app.state.ifedicl_admission, app.state.ifedicl_store
    )
    return app


@pytest.fixture(scope="module")
def app(registry, tokenizer, engine):
    return application(registry, tokenizer, engine)


@pytest.fixture(scope="module")
def client(app):
    with running(app) as client:
        yield client


@contextmanager
def running(app):
    """Talks to uvicorn over a socket that listens before the server runs, so nobody waits."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        port = listener.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
