"""A server with the real routes over the fake engine, one that answers as told, and no waiting."""

import asyncio
from contextlib import contextmanager

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from ifedicl_serve.client import AsyncClient, Client
from ifedicl_serve.client.retry import Clock
from tests.api.conftest import app, engine, registry, running, tokenizer

__all__ = ["app", "engine", "registry", "tokenizer"]


class FakeClock(Clock):
    """Stands still but for `sleep`, which takes no time and is remembered."""

    def __init__(self):
        self.slept = []

    def monotonic(self):
        return sum(self.slept)

    def time(self):
        return 1_000_000_000 + sum(self.slept)

    def jitter(self):
        return 1.0

    def sleep(self, seconds):
        self.slept.append(seconds)

    async def sleep_async(self, seconds):
        self.slept.append(seconds)


class Script:
    """An application that gives its answers in turn, the last for ever, and keeps the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.bodies = []
        self.headers = []
        self.app = FastAPI()
        self.app.add_api_route("/{path:path}", self.answer, methods=["GET", "POST"])

    async def answer(self, request: Request) -> Response:
        self.headers.append(request.headers)
        self.bodies.append(await request.json() if request.method == "POST" else None)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def answer():
    """A response to a request with one text."""
    scores = [{"label": "good", "score": 1.0}]
    result = {"index": 0, "label": "good", "score": 1.0, "scores": scores, "prompt_tokens": 3}
    usage = {
        "prompt_tokens": 3,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    body = {
        "id": "1",
        "created": 1,
        "model": "sst2",
        "task_digest": "d",
        "adapted": True,
        "data": [result],
    }
    return JSONResponse(body | {"usage": usage})


def answer_of_tasks():
    """A response to a request by several tasks that holds no results."""
    usage = {"prompt_tokens": 0, "total_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0}}
    return JSONResponse({"id": "1", "created": 1, "adapted": True, "data": [], "usage": usage})


class Blocking:
    """AsyncClient with Client's signatures, so that each test is about both."""

    def __init__(self, *args, **options):
        self.loop = asyncio.Runner()
        self.client = AsyncClient(*args, **options)

    def __getattr__(self, name):
        return lambda *args, **options: self.loop.run(getattr(self.client, name)(*args, **options))

    def __enter__(self):
        self.loop.run(self.client.__aenter__())
        return self

    def __exit__(self, *error):
        self.loop.run(self.client.__aexit__(*error))
        self.loop.close()


@contextmanager
def serving(app):
    """The base URL of a running application."""
    with running(app) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as url:
        yield url


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def make(request):
    return request.param
