"""A task made with the client, from the real routes."""

import httpx
import pytest
from fastapi.responses import JSONResponse

from api.access.admin_key import ADMIN_KEY_VARIABLE
from ifedicl_serve.client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    PermissionDeniedError,
    TaskNotMadeError,
)
from ifedicl_serve.client.retry import Retries
from ifedicl_serve.schema_jobs import Job
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application
from tests.api.fake_engine import FakeEngine
from tests.api.http.make.conftest import ADMIN_KEY, KEYS, USER_KEY, examples
from tests.ifedicl_serve.client.conftest import Script, serving
from tests.ifedicl_serve.factory import MODEL

TEXTS, LABELS = zip(*[(one["text"], one["label"]) for one in examples()], strict=True)


@pytest.fixture
def app(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, ADMIN_KEY)
    registry = TaskRegistry(tmp_path, MODEL, tokenizer)
    return application(registry, tokenizer, FakeEngine(), [*KEYS, ADMIN_KEY], keys=KEYS)


@pytest.fixture
def url(app):
    with serving(app) as url:
        yield url


def test_a_task_is_made_and_classifies(make, url, clock):
    seen = []
    with make(url, ADMIN_KEY, clock=clock) as client:
        job = client.create_task("made", TEXTS, LABELS, on_progress=seen.append)
        assert client.task("made").digest == job.digest
        assert len(client.classify("made", TEXTS[:3])) == 3
    assert (job.status, job.report.examples) == ("done", len(TEXTS))
    assert seen[0].status == "queued" and seen[-1] == job
    assert [one.progress for one in seen] == sorted(one.progress for one in seen)


def test_its_options_are_sent(make, url, clock):
    words = {"loan": "money lent", "cash": "cash", "card": "a card"}
    with make(url, ADMIN_KEY, clock=clock) as client:
        options = {"words": words, "template": "Q: {text}\nA:", "fit": "bias"}
        assert client.create_task("made", TEXTS, LABELS, **options).report.rung == "bias"
        card = client.task("made")
        assert dict(zip(card.labels, card.verbalizations, strict=True)) == words
        with pytest.raises(APIStatusError, match="409 .*there is a task 'made'"):
            client.create_task("made", TEXTS, LABELS)
        client.create_task("made", TEXTS, LABELS, like="made", replace=True)
        assert client.task("made").template == card.template


def test_a_job_that_fails_says_why(make, url, clock, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", fail)
    with make(url, ADMIN_KEY, clock=clock) as client:
        with pytest.raises(TaskNotMadeError, match=r"task 'made' was not made \(job ") as caught:
            client.create_task("made", TEXTS, LABELS)
    assert caught.value.job.status == "failed"


def test_a_key_that_may_make_none_is_refused(make, url, clock):
    with make(url, USER_KEY, clock=clock) as client, pytest.raises(PermissionDeniedError):
        client.create_task("made", TEXTS, LABELS)


def test_examples_that_no_request_can_hold_are_refused_before_one_is_sent(make, clock):
    with make("http://127.0.0.1:9", clock=clock) as client:
        with pytest.raises(ValueError, match="2 texts and 1 labels, expected a label each"):
            client.create_task("made", ["a", "b"], ["c"])
        with pytest.raises(ValueError, match="text 1 is .* half of a surrogate pair"):
            client.create_task("made", ["a", "\ud800"], ["c", "d"])


QUEUED = Job(id="f" * 32, task="made", status="queued", progress=0.0, created=1)


def test_waiting_for_a_job_ends_with_the_timeout_and_names_the_job(make, clock):
    script = Script(JSONResponse(QUEUED.model_dump(mode="json"), 202))
    with serving(script.app) as url, make(url, clock=clock) as client:
        with pytest.raises(APITimeoutError, match=f"job {QUEUED.id} of .* is queued after 1 s, "):
            client.create_task("made", TEXTS, LABELS, timeout=1.0)
    assert sum(clock.slept) == 1.0


@pytest.mark.parametrize(("status", "sent"), [(502, 1), (504, 1), (429, 6), (503, 6)])
def test_what_may_have_begun_a_job_is_not_sent_again(make, clock, status, sent):
    script = Script(JSONResponse({}, status))
    with serving(script.app) as url, make(url, clock=clock) as client:
        with pytest.raises(APIStatusError):
            client.create_task("made", TEXTS, LABELS)
    assert len(script.bodies) == sent


@pytest.mark.parametrize(
    ("error", "sent"), [(httpx.ConnectError, 2), (httpx.ReadError, 1), (httpx.ReadTimeout, 1)]
)
def test_a_connection_that_broke_may_have_begun_a_job(error, sent, clock):
    """Only what was never connected is sent again."""
    exchange = Retries(1, 600.0, clock).exchange(
        lambda timeout: httpx.Request("POST", "http://127.0.0.1:9/v1/tasks"), changes=True
    )
    requests, reply = 0, None
    with pytest.raises(APIConnectionError):
        while True:
            step = exchange.send(reply)
            requests += isinstance(step, httpx.Request)
            reply = error("broke") if isinstance(step, httpx.Request) else None
    assert requests == sent
