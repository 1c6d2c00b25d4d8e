"""What a server takes at once, how long it works for a request, and how it stops."""

import asyncio
import json
import socket
import threading
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.classify.classifier import Classifier
from api.classify.threads import TEXTS_AT_ONCE
from api.classify.together import all_or_none
from api.limits.admission import MAX_RETRY_AFTER_S, Admission
from api.vllm.drain import drain_before_shutdown
from ifedicl_serve.errors import OverloadedError
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
from tests.api.http.test_errors import error_of

TWO = {"task": "sst2", "input": ["one", "two"]}


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def app(registry, tokenizer, engine):
    return application(
        registry,
        tokenizer,
        engine,
        max_queued_requests=3,
        request_timeout=60,
        max_request_bytes=1000,
    )


@pytest.fixture
def client(app):
    with running(app) as client:
        yield client


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def two_in_flight(app, client, engine):
    """The future of a request for two texts that the engine does not answer yet."""
    engine.held = True
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(client.post, "/v1/classify", json=TWO)
        engine.held = False


# -- the queue


def test_a_full_queue_is_503_with_the_seconds_to_wait_and_what_is_in_flight_is_answered(
    app, client, engine, two_in_flight
):
    until(lambda: len(engine.prompts) == 2)
    response = client.post("/v1/classify", json=TWO)
    assert error_of(response, 503)["message"] == (
        "2 engine requests are in flight and the 2 of these texts exceed this server's 3; send the "
        "request again later"
    )
    assert int(response.headers["retry-after"]) >= 1
    assert len(engine.prompts) == 2  # the engine saw nothing of it
    engine.held = False
    assert two_in_flight.result().status_code == 200
    assert client.post("/v1/classify", json=TWO).status_code == 200


def test_what_still_fits_is_taken_and_a_request_alone_always_is(client, engine, two_in_flight):
    until(lambda: len(engine.prompts) == 2)
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(client.post, "/v1/classify", json={"task": "sst2", "input": "one"})
        until(lambda: len(engine.prompts) == 3)
        engine.held = False
        assert third.result().status_code == 200
    assert two_in_flight.result().status_code == 200
    five = {"task": "sst2", "input": ["text"] * 5}
    assert client.post("/v1/classify", json=five).status_code == 200


@pytest.mark.parametrize("options", [{}, {"top_k": 1}])
def test_a_text_counts_as_often_as_the_engine_is_asked_for_it(
    client, engine, registry, two_in_flight, options
):
    """A text of a task with three label nodes is three engine requests."""
    assert len(registry.get("topics").trie.nodes) == 3
    until(lambda: len(engine.prompts) == 2)
    response = client.post("/v1/classify", json={"task": "topics", "input": "one", **options})
    assert error_of(response, 503)["message"].startswith(
        "2 engine requests are in flight and the 3 of these texts exceed this server's 3; "
    )
    engine.held = False
    assert two_in_flight.result().status_code == 200
    assert client.post("/v1/classify", json={"task": "topics", "input": "one"}).status_code == 200


def test_the_wait_is_what_the_last_request_took(monkeypatch):
    seconds = iter([0, 0, 2.5, 10, 500])
    monkeypatch.setattr("api.limits.admission.monotonic", lambda: next(seconds))
    admission = Admission(max_requests=1)
    waits = []
    with admission.hold(1):  # from 0
        with pytest.raises(OverloadedError) as refused, admission.hold(1):
            pass
        waits.append(refused.value.retry_after)
        for _ in range(2):
            admission.requests = 0
            with admission.hold(1):  # from 0 to 2.5, from 10 to 500
                pass
            admission.requests = 1
            with pytest.raises(OverloadedError) as refused, admission.hold(1):
                pass
            waits.append(refused.value.retry_after)
        monkeypatch.undo()
    assert waits == [1, 3, MAX_RETRY_AFTER_S]


# -- deadlines


def test_a_request_that_is_late_is_504_and_the_engine_drops_it(app, client, engine):
    engine.held = True  # a second: on a busy machine both texts take a while to get there
    response = client.post("/v1/classify", json={**TWO, "timeout": 1})
    assert error_of(response, 504)["message"].startswith("not answered within 1 seconds; ")
    assert engine.aborted == 2
    assert app.state.ifedicl_admission.requests == 0


def test_tasks_that_are_not_found_in_time_are_504_too(client, monkeypatch):
    async def never(tasks, name):
        await asyncio.Event().wait()

    monkeypatch.setattr("api.http.asked.find_task", never)
    response = client.post("/v1/classify", json={**TWO, "timeout": 0.05})
    assert error_of(response, 504)["message"].startswith("not answered within 0.05 seconds; ")


@pytest.mark.parametrize("timeout", [0, -1, "soon"])
def test_a_timeout_is_a_number_above_zero(client, timeout):
    assert error_of(client.post("/v1/classify", json={**TWO, "timeout": timeout}), 422)


def test_the_servers_own_limit_holds_for_a_longer_timeout(registry, tokenizer, engine):
    engine.held = True
    with running(application(registry, tokenizer, engine, request_timeout=0.05)) as client:
        response = client.post("/v1/classify", json={**TWO, "timeout": 3600})
    assert error_of(response, 504)["message"].startswith("not answered within 0.05 seconds; ")


def test_the_first_error_cancels_what_is_lost_with_it():
    dropped = []

    async def fails():
        await asyncio.sleep(0)
        raise ValueError("first")

    async def waits():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            dropped.append(True)
            raise

    with pytest.raises(ValueError, match="first"):
        asyncio.run(all_or_none([waits(), fails(), waits()]))
    assert dropped == [True, True]


def test_a_cancelled_request_ends_with_the_texts_being_tokenised_and_frees_its_thread(registry):
    encoded, go = [], threading.Event()
    texts = [str(number) for number in range(2 * TEXTS_AT_ONCE)]

    class Prompts:
        def key(self, task):
            return task.name

        def encode_for(self, tasks, texts, truncate):
            encoded.extend(texts)
            go.wait()
            return [[[1, 2, 3]]] * len(texts)

    async def cancelled() -> bool:
        working = asyncio.create_task(
            Classifier(FakeEngine(), Prompts()).classify([registry.get("sst2")], texts)
        )
        while not encoded:
            await asyncio.sleep(0.001)
        working.cancel()
        await asyncio.sleep(0.01)
        in_flight = not working.done()  # so its texts still count
        go.set()
        await asyncio.wait([working])
        return in_flight and working.cancelled()

    assert asyncio.run(cancelled())
    assert encoded == texts[:TEXTS_AT_ONCE] != texts


# -- clients that hang up or are slow


def send_raw(client, *parts: bytes) -> socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port))
    for part in parts:
        connection.sendall(part)
    return connection


def head(length: int) -> bytes:
    return (
        b"POST /v1/classify HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {length}\r\n\r\n".encode()
    )


def test_a_client_that_hangs_up_frees_its_work(app, client, engine):
    engine.held = True
    body = json.dumps(TWO).encode()
    connection = send_raw(client, head(len(body)), body)
    until(lambda: len(engine.prompts) == 2)
    connection.close()
    until(lambda: engine.aborted == 2 and app.state.ifedicl_admission.requests == 0)


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(app, client, engine):
    send_raw(client, head(100), b'{"task": ').close()
    assert client.post("/v1/classify", json=TWO).status_code == 200
    assert app.state.ifedicl_admission.requests == 0


def test_a_body_that_does_not_come_is_408(registry, tokenizer, engine):
    with running(application(registry, tokenizer, engine, request_timeout=0.05)) as client:
        connection = send_raw(client, head(100), b'{"task": ')
        answer = connection.makefile("rb").readline()  # the body comes in another packet
    assert answer.startswith(b"HTTP/1.1 408 ")


# -- sizes


def test_a_body_too_large_is_413_unread(client, engine):
    response = client.post("/v1/classify", json={"task": "sst2", "input": "x" * 1000})
    assert error_of(response, 413)["message"].endswith(
        "bytes, expected at most 1000; send fewer or shorter texts at once"
    )
    connection = send_raw(client, head(10**9))  # says so and sends nothing
    assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert engine.prompts == []


def test_a_body_too_large_that_does_not_say_so_is_413(client):
    chunks = (b"x" * 400 for _ in range(3))
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/classify", content=chunks, headers=headers)
    assert error_of(response, 413)["message"].startswith("the body has more bytes, expected")


def test_a_text_too_long_to_tokenise_and_too_many_scores_are_422(registry, tokenizer, engine):
    with running(application(registry, tokenizer, engine)) as client:
        response = client.post("/v1/classify", json={"task": "sst2", "input": "x" * (2**20 + 1)})
        assert "has 1048577 characters, expected at most 1048576" in response.text
        assert error_of(response, 422)


@pytest.mark.parametrize("options", [{}, {"top_k": 1}])
def test_too_many_scores_are_422_however_many_are_asked_for(client, engine, monkeypatch, options):
    monkeypatch.setattr("api.http.asked.MAX_SCORES", 9)
    two = {"task": "topics", "input": ["one", "two"], **options}
    assert error_of(client.post("/v1/classify", json=two), 422)["message"] == (
        "2 texts with 5 labels each make 10 scores, expected at most 9; send fewer texts at once"
    )
    assert engine.prompts == []


# -- readiness and the end


def test_ready_and_healthy_are_two_things(app, client):
    assert client.get("/ready").json() == {"status": "ready"}
    app.state.ifedicl_admission.draining = True
    assert (client.get("/ready").status_code, client.get("/ready").json()) == (
        503,
        {"status": "draining"},
    )
    app.state.ifedicl_admission.draining = False
    app.state.engine_client.errored = True
    assert client.get("/ready").json() == {"status": "engine dead"}


def test_a_server_told_to_stop_finishes_what_it_has_and_takes_no_more(
    app, client, engine, two_in_flight
):
    until(lambda: len(engine.prompts) == 2)
    stops = []
    vllm = Namespace(errored=False, shutdown=lambda timeout: stops.append(timeout))
    drain_before_shutdown(vllm, app.state.ifedicl_admission)
    stopping = threading.Thread(target=vllm.shutdown, kwargs={"timeout": 60})
    stopping.start()
    until(lambda: client.get("/ready").status_code == 503)
    response = client.post("/v1/classify", json=TWO)
    assert "this server is stopping" in error_of(response, 503)["message"]
    assert response.headers["retry-after"] == "1"
    assert stops == []
    engine.held = False
    stopping.join()
    assert two_in_flight.result().status_code == 200
    assert 0 < stops[0] < 60  # what is left is vLLM's, for its own requests


@pytest.mark.parametrize(("stopping", "status"), [(True, 503), (False, 500)])
def test_what_a_stopping_engine_drops_is_for_another_server(app, client, engine, stopping, status):
    """With --shutdown-timeout 0 the engine aborts what it has, and vLLM can make no answer of an
    aborted pooling request: its `encode` raises EngineGenerateError."""

    async def dropped(prompt_ids, request):
        app.state.ifedicl_admission.draining = stopping
        raise RuntimeError("as vLLM's EngineGenerateError")

    engine.token_scores = dropped
    error = error_of(client.post("/v1/classify", json=TWO), status)
    assert ("is stopping" in error["message"]) == stopping
    assert app.state.ifedicl_admission.requests == 0


def test_stopping_waits_no_longer_than_it_was_told_to_and_not_for_a_dead_engine(
    app, engine, client, two_in_flight
):
    until(lambda: len(engine.prompts) == 2)
    stops = []
    for vllm, timeout in ((Namespace(errored=False), 0.01), (Namespace(errored=True), 600)):
        vllm.shutdown = lambda timeout: stops.append(timeout)
        drain_before_shutdown(vllm, app.state.ifedicl_admission)
        vllm.shutdown(timeout=timeout)
    assert stops[0] == 0
    assert stops[1] > 500
