"""What is sent again, after how long, and what is raised in the end; over real sockets."""

import asyncio
import socket
import threading
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate

import httpx
import pytest
from fastapi.responses import JSONResponse, PlainTextResponse

from ifedicl_serve import client as api
from ifedicl_serve.client import AsyncClient, Client
from ifedicl_serve.client.retry import Clock, retry_after
from tests.ifedicl_serve.client.conftest import Script, answer, serving

NOW = 1_000_000_000  # of the fake clock


def refusal(status, retry_after=None, message="no"):
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    error = {"message": message, "type": "SomeError", "param": "input", "code": status}
    return JSONResponse({"error": error}, status, headers | {"X-Request-Id": "r-17"})


def run(make, script, clock, **options):
    """Classify one text; the label, or the error."""
    with serving(script.app) as url, make(url, clock=clock, **options) as client:
        try:
            return client.classify("sst2", "good")[0].label
        except api.APIError as error:
            return error


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_sent_again_after_as_long_as_the_server_says(make, clock, status):
    script = Script(refusal(status, 7), refusal(status, 0), answer())
    assert run(make, script, clock) == "good"
    assert clock.slept == [7, 0]
    assert script.bodies == [{"task": "sst2", "input": ["good"]}] * 3


def test_retry_after_may_be_a_date(make, clock):
    later, past = formatdate(NOW + 90, usegmt=True), formatdate(NOW, usegmt=True)
    assert run(make, Script(refusal(503, later), refusal(503, past), answer()), clock) == "good"
    assert clock.slept == [90, 0]


@pytest.mark.parametrize("header", [None, "soon", "-3", "1.5", ""])
def test_backoff_doubles_up_to_its_cap_where_the_server_says_nothing(make, clock, header):
    script = Script(*[refusal(503, header)] * 8, answer())
    assert run(make, script, clock, max_retries=8) == "good"
    assert clock.slept == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_backoff_is_shortened_by_chance():
    assert all(0.5 <= Clock().jitter() <= 1 for _ in range(100))
    assert len({Clock().jitter() for _ in range(100)}) > 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, api.BadRequestError),
        (401, api.AuthenticationError),
        (403, api.PermissionDeniedError),
        (404, api.NotFoundError),
        (409, api.APIStatusError),
        (422, api.UnprocessableEntityError),
        (500, api.InternalServerError),
    ],
)
def test_other_errors_are_raised_at_once_with_all_the_server_said(make, clock, status, kind):
    script = Script(refusal(status, 1, "the reason"))
    error = run(make, script, clock)
    assert type(error) is kind
    assert (error.status, error.type, error.message) == (status, "SomeError", "the reason")
    assert (error.param, error.request_id) == ("input", "r-17")
    assert str(error) == f"{status} SomeError: the reason (request r-17)"
    assert (len(script.bodies), clock.slept) == (1, [])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, api.RateLimitError),
        (502, api.InternalServerError),
        (503, api.OverloadedError),
        (504, api.DeadlineExceededError),
    ],
)
def test_after_the_last_retry_the_servers_error_is_raised(make, clock, status, kind):
    script = Script(refusal(status, 1))
    assert type(run(make, script, clock, max_retries=2)) is kind
    assert (len(script.bodies), clock.slept) == (3, [1, 1])


def test_a_wait_that_outlasts_the_timeout_is_not_begun(make, clock):
    script = Script(refusal(503, 20))
    error = run(make, script, clock, timeout=50)
    assert isinstance(error, api.OverloadedError)
    assert clock.slept == [20, 20]
    assert error.__notes__ == ["not tried again: the timeout is 50 s in all"]


def test_an_attempt_is_given_what_is_left_of_the_timeout(clock):
    seen = []

    def handle(request):
        seen.append(request.extensions["timeout"]["read"])
        return httpx.Response(503, headers={"Retry-After": "20"})

    http = httpx.Client(transport=httpx.MockTransport(handle))
    with Client("http://any", timeout=50, clock=clock, http_client=http) as client:
        with pytest.raises(api.OverloadedError):
            client.task("sst2")
    assert seen == [50, 30, 10]


def test_a_server_that_is_not_there_is_looked_for_again(make, clock):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with make(f"http://127.0.0.1:{port}", max_retries=3, clock=clock) as client:
        with pytest.raises(api.APIConnectionError, match="is the server running there") as caught:
            client.tasks()
    assert clock.slept == [0.5, 1, 2]
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


def test_a_connection_that_breaks_before_the_answer_is_made_again(make, clock):
    """The server closes the first three without a word and answers on the fourth."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        for _ in range(3):
            listener.accept()[0].close()
        connection = listener.accept()[0]
        connection.recv(65536)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}')
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with listener, make(f"http://127.0.0.1:{listener.getsockname()[1]}", clock=clock) as client:
        assert client.tasks() == []
        thread.join()
    assert clock.slept == [0.5, 1, 2]


def test_a_server_that_never_answers_is_given_up_after_the_timeout(make):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with make(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2) as client:
            with pytest.raises(api.APITimeoutError):
                client.tasks()


def test_an_answer_that_cannot_be_decoded_is_not_asked_for_again(make, clock):
    garbled = PlainTextResponse("no gzip", headers={"Content-Encoding": "gzip"})
    assert isinstance(run(make, Script(garbled), clock), api.APIConnectionError)
    assert clock.slept == []


@pytest.mark.parametrize("body", ["<html>", '{"error": "Unauthorized"}', "{}", ""])
def test_an_error_without_our_body_says_who_answered(make, clock, body):
    error = run(make, Script(PlainTextResponse(body, 401)), clock)
    assert isinstance(error, api.AuthenticationError)
    assert error.type == "Unauthorized"
    assert error.message.endswith("/v1/classify answered Unauthorized")
    assert error.request_id is None


def test_an_answer_of_something_else_is_refused(make, clock):
    error = run(make, Script(PlainTextResponse("<html>hello")), clock)
    assert isinstance(error, api.APIResponseError)
    assert "is base_url that of an ifedicl server?" in str(error)


def test_fewer_results_than_texts_are_refused(clock):
    with serving(Script(answer()).app) as url, Client(url, clock=clock) as client:
        with pytest.raises(api.APIResponseError, match="1 results for 2 texts"):
            client.classify("sst2", ["good", "bad"])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (format_datetime(datetime.fromtimestamp(NOW + 5, UTC), usegmt=True), 5),
        (formatdate(NOW - 5, usegmt=True), 0),
        ("", None),
        ("-1", None),
        ("tomorrow", None),
        ("Sun, 99 Sep 2001 01:46:40 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header, seconds):
    assert retry_after(header, NOW) == seconds


def test_async_batches_are_under_way_a_few_at_a_time(clock):
    under_way, most = 0, 0

    async def handle(request):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        under_way -= 1
        return httpx.Response(200, content=answer().body)

    async def classify():
        http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
        async with AsyncClient(
            "http://any", batch_size=1, concurrency=3, http_client=http
        ) as client:
            return await client.classify("sst2", ["good"] * 20)

    assert [result.index for result in asyncio.run(classify())] == list(range(20))
    assert most == 3


def test_the_first_async_batch_that_fails_cancels_the_others(clock):
    script = Script(refusal(404))

    async def classify(url):
        async with AsyncClient(url, batch_size=1, concurrency=1) as client:
            await client.classify("sst2", ["good"] * 20)

    with serving(script.app) as url, pytest.raises(api.NotFoundError):
        asyncio.run(classify(url))
    assert len(script.bodies) < 20
