"""Request ids, headers, the log line and the counters."""

import json

import pytest
from prometheus_client import REGISTRY

from api.serve import MIDDLEWARE
from tests.api.conftest import application, running
from tests.api.fake_engine import CACHED_TOKENS, FakeEngine

SECRET = "xyzzy-of-a-patient"


def access_lines(caplog):
    return [record for record in caplog.records if record.name == "vllm.ifedicl.access"]


def classify(client, task="sst2", texts=("one", "two"), **headers):
    body = {"task": task, "input": list(texts)}
    return client.post("/v1/classify", json=body, headers=headers)


# -- request ids and headers


def test_a_callers_request_id_is_kept_in_header_answer_and_log(client, logged):
    response = classify(client, **{"X-Request-Id": "order-17:b"})
    assert response.headers["x-request-id"] == "order-17:b"
    assert response.json()["id"] == "classify-order-17:b"
    assert access_lines(logged)[-1].request_id == "order-17:b"


@pytest.mark.parametrize("sent", [None, "", "a b", "x" * 129, "ä", "<script>"])
def test_a_missing_or_odd_request_id_is_replaced(client, sent):
    headers = {} if sent is None else {"X-Request-Id": sent.encode()}
    given = classify(client, **headers).headers["x-request-id"]
    assert len(given) == 32
    assert int(given, 16)


def test_every_answer_has_the_security_headers(client):
    for response in (classify(client), client.get("/v1/tasks"), client.get("/nowhere")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-store"


def test_who_is_told_503_is_told_when_to_come_again(client, engine, registry):
    engine.unavailable.add(registry.get("fatal").digest)
    response = classify(client, "fatal")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


# -- the log


def test_a_request_is_one_line_with_fields(client, logged):
    classify(client, **{"X-Request-Id": "one"})
    (line,) = access_lines(logged)
    assert (line.method, line.path, line.status, line.task, line.texts) == (
        "POST", "/v1/classify", 200, "sst2", 2,
    )  # fmt: skip
    assert line.getMessage().startswith("method=POST path=/v1/classify status=200 duration_ms=")
    assert line.duration_ms > 0


def test_what_went_wrong_is_in_the_line(client, logged):
    classify(client, "nobody")
    client.get("/v1/tasks/nobody")
    client.post("/v1/classify", json={})
    kinds = [(line.status, line.error) for line in access_lines(logged)]
    assert kinds == [
        (404, "TaskNotFoundError"), (404, "TaskNotFoundError"), (422, "RequestValidationError"),
    ]  # fmt: skip


def test_probes_are_logged_only_when_they_fail(app, client, logged):
    client.get("/ready")
    app.state.ifedicl_admission.draining = True
    client.get("/ready")
    app.state.ifedicl_admission.draining = False
    assert [line.status for line in access_lines(logged)] == [503]


@pytest.mark.parametrize(
    "body",
    [
        {"task": "sst2", "input": SECRET},
        {"task": "sst2", "input": [SECRET, ""]},
        {"task": "sst2", "input": [SECRET, {"a": SECRET}]},
        {"task": "sst2", "input": SECRET * 50},
        {"task": "sst2", "input": SECRET, SECRET: 1},
        {"task": "nobody", "input": SECRET},
        {"task": "sst2", "input": SECRET, "top_k": SECRET},
        SECRET,
    ],
)
def test_no_text_is_logged_whatever_goes_wrong(client, logged, body):
    client.post("/v1/classify", json=body)
    client.post("/v1/classify", content=json.dumps(body)[:-1].encode())
    assert len(access_lines(logged)) == 2
    assert all(SECRET not in str(vars(record)) for record in logged.records)


def test_a_path_writes_no_lines_and_no_fields_of_its_own(client, logged):
    client.get("/x%0Amethod=POST%20status=200%1B%5B31m" + "y" * 1000)
    (line,) = access_lines(logged)
    assert line.getMessage().startswith(
        "method=GET path=/x%0Amethod%3DPOST%20status%3D200%1B%5B31myyy"
    )
    assert len(line.path) == 256


def test_a_defect_is_500_with_its_request_and_its_traceback_in_the_log(app, client, logged):
    app.state.ifedicl_classifier, whole = None, app.state.ifedicl_classifier
    try:
        response = classify(client, **{"X-Request-Id": "unlucky"})
    finally:
        app.state.ifedicl_classifier = whole
    assert response.status_code == 500
    assert response.json()["error"]["message"] == (
        "this is a defect of the server; its log says more about request unlucky"
    )
    assert response.headers["x-request-id"] == "unlucky"
    defect, access = logged.records[-2:]
    assert defect.exc_info
    assert (access.status, access.error) == (500, "AttributeError")


def test_below_a_root_path_requests_are_counted_too(registry, tokenizer):
    app = application(registry, tokenizer, FakeEngine())
    app.root_path = "/api"
    before = value("ifedicl:request_total", task="sst2", status="200")
    with running(app) as client:
        body = {"task": "sst2", "input": "text"}
        assert client.post("/api/v1/classify", json=body).status_code == 200
    assert value("ifedicl:request_total", task="sst2", status="200") == before + 1


# -- the counters


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_requests_texts_tokens_labels_and_scores_are_counted_per_task(client):
    def counted():
        return {
            "requests": value("ifedicl:request_total", task="topics", status="200"),
            "latency": value("ifedicl:e2e_request_latency_seconds_count", task="topics"),
            "texts": value("ifedicl:texts_total", task="topics"),
            "prompt": value("ifedicl:prompt_tokens_total", task="topics"),
            "cached": value("ifedicl:cached_tokens_total", task="topics"),
            "scores": value("ifedicl:top_score_count", task="topics"),
            "sum of scores": value("ifedicl:top_score_sum", task="topics"),
        }

    before = counted()
    answer = classify(client, "topics", ["one", "two", "three"]).json()
    grown = {name: number - before[name] for name, number in counted().items()}
    assert grown["sum of scores"] == pytest.approx(sum(row["score"] for row in answer["data"]))
    del grown["sum of scores"]
    assert grown == {
        "requests": 1, "latency": 1, "texts": 3, "prompt": answer["usage"]["prompt_tokens"],
        "cached": 3 * CACHED_TOKENS, "scores": 3,
    }  # fmt: skip
    for row in answer["data"]:
        assert value("ifedicl:label_total", task="topics", label=row["label"]) >= 1


def test_errors_are_counted_by_kind_and_strangers_make_no_series(client):
    def counted(kind, task=""):
        return value("ifedicl:request_errors_total", task=task, kind=kind)

    before = counted("TaskNotFoundError"), counted("RequestValidationError")
    for name in ("nobody", "nobody-else"):
        classify(client, name)
    client.post("/v1/classify", json={})
    assert counted("TaskNotFoundError") == before[0] + 2
    assert counted("RequestValidationError") == before[1] + 1
    classify(client, "sst2", ["word " * 100])
    assert counted("TextTooLongError", "sst2") >= 1
    assert value("ifedicl:request_total", task="nobody", status="404") == 0


def test_requests_in_flight_are_none_when_nobody_waits(client):
    classify(client)
    assert value("ifedicl:requests_in_flight") == 0


def test_the_middleware_is_that_of_the_command():
    assert MIDDLEWARE[-1] == "api.observe.middleware.Observe"  # outermost: it sees every answer


def test_a_client_that_hung_up_is_counted_as_such(registry, tokenizer):
    import socket

    from tests.api.limits.test_limits import TWO, head, until

    engine = FakeEngine()
    engine.held = True
    before = value("ifedicl:request_errors_total", task="sst2", kind="ClientDisconnect")
    with running(application(registry, tokenizer, engine)) as client:
        body = json.dumps(TWO).encode()
        connection = socket.create_connection((client.base_url.host, client.base_url.port))
        connection.sendall(head(len(body)) + body)
        until(lambda: len(engine.prompts) == 2)
        connection.close()
        until(lambda: engine.aborted == 2)
    after = value("ifedicl:request_errors_total", task="sst2", kind="ClientDisconnect")
    assert after == before + 1
