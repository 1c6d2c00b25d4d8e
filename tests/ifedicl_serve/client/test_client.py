"""Both clients against the real routes: what is sent, what comes back, and in which order."""

import re
import traceback

import httpx
import pytest

from ifedicl_serve.client import (
    APIResponseError,
    Client,
    NotFoundError,
    TaskClassification,
    TaskError,
    UnprocessableEntityError,
)
from ifedicl_serve.client.client import API_KEY_VARIABLE
from ifedicl_serve.schema import MAX_BATCH, MAX_RESULTS, RefusedTask, TaskSummary
from tests.ifedicl_serve.client.conftest import Script, answer, answer_of_tasks, serving

TEXTS = [f"film number {number} was good" for number in range(50)]


@pytest.mark.parametrize("batch_size", [1, 7, 50, 256])
def test_batches_give_what_one_request_gives_in_order(make, url, batch_size):
    body = {"task": "topics", "input": TEXTS}
    expected = httpx.post(f"{url}/v1/classify", json=body).json()["data"]
    with make(url, batch_size=batch_size) as client:
        results = client.classify("topics", TEXTS)
    assert [result.model_dump() for result in results] == expected


@pytest.mark.parametrize(
    "key", ["s3cret\n", "s3cret\r\nX-Other: 1", "schl\xfcssel", "my s3cret", " s3cret"]
)
@pytest.mark.parametrize("by_variable", [False, True])
def test_case_10_a_key_that_no_request_could_send_is_refused_and_not_shown(
    make, monkeypatch, key, by_variable
):
    """httpx showed it in its exception, or raised a bare UnicodeEncodeError."""
    if by_variable:
        monkeypatch.setenv(API_KEY_VARIABLE, key)
    with pytest.raises(ValueError) as caught:
        make("http://127.0.0.1:9", api_key=None if by_variable else key)
    source = API_KEY_VARIABLE if by_variable else "api_key"
    assert str(caught.value).startswith(f"{source} is empty or holds more than printable ASCII")
    trace = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in trace and "schl" not in trace


def test_one_text_is_a_list_of_one(make, url):
    with make(url) as client:
        assert client.classify("sst2", "good") == client.classify("sst2", ["good"])


def test_no_texts_are_no_requests(make):
    with make("http://127.0.0.1:9") as client:
        assert client.classify("sst2", []) == []


def test_top_k_and_truncate_are_the_servers(make, url):
    with make(url) as client:
        (result,) = client.classify("topics", "word " * 200, top_k=2, truncate=True)
        assert len(result.scores) == 2
        with pytest.raises(UnprocessableEntityError, match="takes at most"):
            client.classify("topics", "word " * 200)


@pytest.mark.parametrize("tasks", [["topics", "nobody", "sst2"], ("sst2",), "*"])
@pytest.mark.parametrize("batch_size", [7, 256])
def test_several_tasks_give_what_the_server_gives_for_them(make, url, batch_size, tasks):
    """Text by text, with errors in their places, whatever the parts."""
    body = {"tasks": tasks, "input": TEXTS, "top_k": 1}
    expected = httpx.post(f"{url}/v1/classify", json=body).json()["data"]
    with make(url, batch_size=batch_size) as client:
        results = client.classify(tasks, TEXTS, top_k=1)
    assert [result.model_dump() for result in results] == expected
    kinds = {result.task: type(result) for result in results}
    assert kinds.pop("nobody", TaskError) is TaskError
    assert set(kinds.values()) == {TaskClassification}


def test_more_results_than_a_request_may_have_are_several(make):
    tasks = [f"task-{number}" for number in range(100)]
    script = Script(answer_of_tasks())
    with serving(script.app) as url, make(url) as client:
        with pytest.raises(APIResponseError, match="0 results for 163 texts by 100 tasks"):
            client.classify(tasks, ["good"] * 200)
    assert {body["tasks"] == tasks for body in script.bodies} == {True}
    assert len(script.bodies[0]["input"]) == MAX_RESULTS // 100


def test_where_no_task_answers_it_is_raised(make, url):
    with make(url) as client:
        with pytest.raises(NotFoundError, match="'nobody' is not loaded"):
            client.classify(["nobody", "no-one"], "good")
        with pytest.raises(UnprocessableEntityError, match="0 tasks, expected 1"):
            client.classify([], "good")


def test_tasks_are_listed_with_the_refused(make, url):
    with make(url) as client:
        tasks = {task.id: task for task in client.tasks()}
        assert isinstance(tasks["sst2"], TaskSummary)
        assert tasks["sst2"].digest == client.task("sst2").digest
        assert isinstance(tasks["damaged"], RefusedTask)


def test_an_unknown_task_is_not_found_whatever_its_name(make, url):
    with make(url) as client:
        for name in ("nobody", "no?x=1#body", "ü"):
            with pytest.raises(NotFoundError, match="is not loaded") as caught:
                client.task(name)
            assert name in caught.value.message


def test_a_refused_text_is_found_although_the_server_saw_its_batch_alone(make, url):
    with make(url, batch_size=20) as client:
        with pytest.raises(UnprocessableEntityError, match="text 5 is empty") as caught:
            client.classify("sst2", [*TEXTS[:25], " ", *TEXTS[25:]])
    assert caught.value.param == "input"
    assert caught.value.__notes__ == ["in the request with texts 20 to 39"]


def test_only_what_says_something_is_sent_so_that_older_servers_understand(make):
    script = Script(answer())
    with serving(script.app) as url, make(url) as client:
        client.classify("sst2", "good")
        client.classify("sst2", "good", top_k=1, truncate=True, adapted=False)
    plain = {"task": "sst2", "input": ["good"]}
    options = {"top_k": 1, "truncate": True, "adapted": False}
    assert script.bodies == [plain, plain | options]


def test_the_key_is_sent_as_openai_keys_are(make, monkeypatch):
    script = Script(answer())
    with serving(script.app) as url:
        with make(url, api_key="given") as client:
            client.classify("sst2", "good")
        monkeypatch.setenv("IFEDICL_API_KEY", "of-the-environment")
        with make(url) as client:
            client.classify("sst2", "good")
        monkeypatch.delenv("IFEDICL_API_KEY")
        with make(url) as client:
            client.classify("sst2", "good")
    keys = [headers.get("authorization") for headers in script.headers]
    assert keys == ["Bearer given", "Bearer of-the-environment", None]


def test_clients_may_share_an_http_client_which_stays_as_it_is(make):
    seen = []

    def handle(request):
        seen.append((str(request.url), request.headers.get("authorization")))
        return httpx.Response(200, content=answer().body)

    kind = httpx.Client if make is Client else httpx.AsyncClient
    http = kind(transport=httpx.MockTransport(handle))
    one = make("http://one:8000", "key-of-one", http_client=http)
    two = make("http://two/behind/a/proxy/", http_client=http)
    for client in (one, two):
        with client:
            client.classify("sst2", "good")
    assert seen == [
        ("http://one:8000/v1/classify", "Bearer key-of-one"),
        ("http://two/behind/a/proxy/v1/classify", None),
    ]
    assert not http.is_closed


def test_connections_of_its_own_are_closed(make):
    with make("http://127.0.0.1:9") as client:
        pass
    assert getattr(client, "client", client)._http.is_closed


@pytest.mark.parametrize(
    ("text", "options"), [("\ud800", {}), ("good", {"top_k": float("nan")}), (b"good", {})]
)
def test_what_no_request_can_be_made_of_is_sent_nowhere(make, text, options):
    with make("http://127.0.0.1:9") as client, pytest.raises((ValueError, TypeError)):
        client.classify("sst2", [text], **options)


def test_case_16_half_of_a_surrogate_pair_is_refused_by_its_text(make):
    with make("http://127.0.0.1:9") as client:
        with pytest.raises(ValueError, match=r"text 1 is 'b\\ud800', which holds half of a surr"):
            client.classify("sst2", ["a", "b\ud800"])
        with pytest.raises(ValueError, match=r"the task's name is '\\ud800', which holds half"):
            client.classify("\ud800", "a")
        with pytest.raises(ValueError, match=r"the task's name is '\\ud800', which holds half"):
            client.task("\ud800")


@pytest.mark.parametrize(
    "base_url",
    ["http://[::1", "http://host:port", "localhost:8000", "127.0.0.1:8000", "host", "http://", ""],
)
def test_case_16_an_address_that_is_no_url_is_refused_at_once(make, base_url):
    """Also one without a scheme."""
    with pytest.raises(ValueError, match=f"base_url is '{re.escape(base_url)}', expected a URL su"):
        make(base_url)


def test_a_batch_larger_than_the_server_takes_is_refused_at_once(make):
    for size in (0, MAX_BATCH + 1):
        with pytest.raises(ValueError, match=f"batch_size is {size}"):
            make("http://127.0.0.1:9", batch_size=size)
