"""`ifedicl serve` as users run it: its own process, compiled engine, real HTTP, fresh artifacts,
which a key that it trusts has signed."""

import json
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.common.random_tasks import random_task
from calibration.model.load import load_model
from ifedicl_serve.client import Client
from ifedicl_serve.contract.signing import write_signature
from tests.deploy.promql import served_names, unknown_metrics
from tests.engine.conftest import TINY_QWEN2
from tests.engine.reference import hooked
from tests.ifedicl_serve.keys import public_pem
from tests.otlp import collector
from tests.processes import in_engine, served, until

ADMIN_KEY = "of-the-operator"
LABELS = ("card", "card payment", "cash", "exchange rate")
# Tasks that adapt all of a prompt, its tail, and nothing.
GOOD = {
    "alpha": {"fit": "coefficients"},
    "beta": {"fit": "channels", "extent": "tail", "readout": "head"},
    "delta": {"fit": "none", "readout": "head"},
    "epsilon": {"fit": "none", "readout": "bias"},
    "gamma": {"fit": "coefficients", "extent": "tail"},
}
TEAM, TEAMS_TASKS = "of-a-team", ["gamma", "d*"]
BLOCK = 128  # tokens, vLLM's own on a CPU
TEXTS = [f"question number {number} about my card and {number * 7} euros" for number in range(40)]


@pytest.fixture(scope="module")
def model(models):
    return models["llama"]


@pytest.fixture(scope="module")
def key():
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def tasks(model, key, tmp_path_factory):
    """Good artifacts, one that is not signed, one damaged and one for another model."""
    folder = tmp_path_factory.mktemp("served")
    made = {
        name: random_task(
            model, folder / name, seed, labels=LABELS, **GOOD.get(name, GOOD["alpha"])
        )
        for seed, name in enumerate((*GOOD, "unsigned", "damaged"))
    }
    vectors = folder / "damaged" / "vectors.safetensors"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    made["foreign"] = random_task(TINY_QWEN2, folder / "foreign", 9)
    for name in made.keys() - {"unsigned"}:
        write_signature(folder / name, made[name].digest, key)
    return folder, made


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def traces():
    """Where to send traces over HTTP, and the spans that came."""
    with collector() as (endpoint, spans), pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # milliseconds
        yield endpoint, spans


@pytest.fixture(scope="module")
def running(model, tasks, key, log, traces, tmp_path_factory):
    """The server's base URL, once it is healthy, and its process."""
    folder = tmp_path_factory.mktemp("keys")
    trusted, teams = folder / "trusted.pem", folder / "keys.json"
    trusted.write_bytes(public_pem(key))
    teams.write_text(json.dumps({TEAM: TEAMS_TASKS}))
    keys = (
        "--api-key", "secret", "--admin-key", ADMIN_KEY, "--trusted-keys", str(trusted),
        "--key-file", str(teams),
    )  # fmt: skip
    tracing = ("--otlp-traces-endpoint", traces[0])
    with served(model, tasks[0], log, *keys, *tracing, "--log-level", "INFO") as url_and_process:
        yield url_and_process


@pytest.fixture(scope="module")
def server(running):
    return running[0]


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(
        base_url=server, timeout=60, headers={"Authorization": "Bearer secret"}
    ) as client:
        yield client


def log_probs(client, task: str, adapted: bool = True) -> np.ndarray:
    """Log-probabilities [texts, labels] in the task's label order."""
    body = {"task": task, "input": TEXTS, "adapted": adapted}
    response = client.post("/v1/classify", json=body)
    assert response.status_code == 200, response.text
    by_label = [
        {score["label"]: score["score"] for score in result["scores"]}
        for result in response.json()["data"]
    ]
    return np.log([[scores[label] for label in LABELS] for scores in by_label])


@pytest.mark.parametrize("name", GOOD)
def test_served_probabilities_are_those_of_calibration(client, model, tasks, name):
    network = load_model(str(model), dtype="fp32", device="cpu")
    expected = hooked(network, tasks[1][name], TEXTS)
    np.testing.assert_allclose(log_probs(client, name), expected, atol=1e-4)


def test_unadapted_probabilities_are_those_of_the_base_model(client, model, tasks):
    """Also after the task's own requests have filled the prefix cache."""
    network = load_model(str(model), dtype="fp32", device="cpu")
    expected = hooked(network, tasks[1]["alpha"], TEXTS, adapted=False)
    adapted = log_probs(client, "alpha")
    np.testing.assert_allclose(log_probs(client, "alpha", adapted=False), expected, atol=1e-4)
    assert not np.allclose(adapted, expected, atol=0.01)


def test_the_python_client_gets_what_http_sends(client, server):
    with Client(server, api_key="secret", batch_size=16) as python:
        results = python.classify("alpha", TEXTS)
        assert [result.index for result in results] == list(range(len(TEXTS)))
        assert python.task("alpha").labels == list(LABELS)
    by_label = [{score.label: score.score for score in result.scores} for result in results]
    scores = np.log([[row[label] for label in LABELS] for row in by_label])
    np.testing.assert_allclose(scores, log_probs(client, "alpha"), atol=1e-4)


def test_concurrent_requests_for_two_tasks_do_not_mix(client):
    alone = {name: log_probs(client, name) for name in ("alpha", "beta")}
    assert not np.allclose(alone["alpha"], alone["beta"], atol=0.01)
    names = ("alpha", "beta") * 4
    with ThreadPoolExecutor(len(names)) as pool:
        results = pool.map(lambda name: log_probs(client, name), names)
        for name, scores in zip(names, results, strict=True):
            np.testing.assert_allclose(scores, alone[name], atol=1e-4)


def test_the_prefix_cache_is_used_within_a_task_and_never_across(client):
    text = "card " * 150  # over one block of 128 tokens

    def cached_tokens(task: str) -> int:
        body = {"task": task, "input": text}
        usage = client.post("/v1/classify", json=body).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    assert cached_tokens("alpha") == 0
    assert cached_tokens("beta") == 0
    assert cached_tokens("alpha") >= 128


# -- many tasks


def ask(client, tasks, texts) -> dict:
    response = client.post("/v1/classify", json={"tasks": tasks, "input": texts})
    assert response.status_code == 200, response.text
    return response.json()


def of_task(answer: dict, task: str) -> np.ndarray:
    """Log-probabilities [texts, labels] in the task's label order."""
    results = [result for result in answer["data"] if result["task"] == task]
    by_label = [{one["label"]: one["score"] for one in result["scores"]} for result in results]
    return np.log([[scores[label] for label in LABELS] for scores in by_label])


def test_many_tasks_answer_as_each_alone_and_one_that_fails_spoils_none(client):
    alone = {name: log_probs(client, name) for name in GOOD}
    answer = ask(client, [*GOOD, "damaged", "nobody"], TEXTS)
    for name, expected in alone.items():
        np.testing.assert_allclose(of_task(answer, name), expected, atol=1e-4)
    failed = [entry["task"] for entry in answer["data"] if entry["object"] == "error"]
    assert failed == ["damaged", "nobody"] * len(TEXTS)


@pytest.mark.parametrize("names", [["beta", "gamma", "epsilon", "delta"], ["epsilon", "delta"]])
def test_a_text_is_computed_once_for_all_that_share_it(client, names):
    """Counted: what was neither found in the prefix cache nor computed for another task. Who adapts
    a tail shares whole blocks before it, who adapts nothing the whole prompt."""
    text = f"{len(names)} " + "card " * 180
    usage = ask(client, names, text)["usage"]
    prompt = usage["prompt_tokens"] // len(names)
    computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    assert BLOCK + 40 < prompt < 2 * BLOCK
    groups = len({"beta", "gamma"} & {*names}) + 1
    assert computed == prompt + (groups - 1) * (prompt - BLOCK)


def test_a_star_is_what_the_key_may_use_and_the_others_are_not_there(client, server):
    theirs = {"Authorization": f"Bearer {TEAM}"}
    with httpx.Client(base_url=server, timeout=60, headers=theirs) as team:
        answer = ask(team, "*", TEXTS[:2])
        assert [entry["task"] for entry in answer["data"]] == ["delta", "gamma"] * 2
        ours, others, nobodys = ask(team, ["delta", "alpha", "nobody"], "text")["data"]
    assert ours["label"] in LABELS
    message = others["error"]["message"].replace("alpha", "nobody")
    assert message == nobodys["error"]["message"]
    assert {entry["task"] for entry in ask(client, "*", "text")["data"]} >= {*GOOD}


def test_bad_artifacts_are_listed_with_their_reason_and_stop_nothing(client):
    listed = {task["id"]: task for task in client.get("/v1/tasks").json()["data"]}
    assert [name for name, task in listed.items() if task["status"] == "ready"] == list(GOOD)
    assert "content does not match the SHA-256" in listed["damaged"]["reason"]
    assert "calibrated on another model" in listed["foreign"]["reason"]
    assert "not signed" in listed["unsigned"]["reason"]


def test_a_task_that_is_signed_while_serving_serves(client, model, tasks, key):
    folder, made = tasks
    body = {"task": "unsigned", "input": TEXTS}
    refused = client.post("/v1/classify", json=body)
    assert refused.status_code == 404
    assert "its artifact was refused: unsigned: not signed" in refused.json()["error"]["message"]
    write_signature(folder / "unsigned", made["unsigned"].digest, key)
    until(lambda: client.post("/v1/classify", json=body).status_code == 200)
    network = load_model(str(model), dtype="fp32", device="cpu")
    expected = hooked(network, made["unsigned"], TEXTS)
    np.testing.assert_allclose(log_probs(client, "unsigned"), expected, atol=1e-4)


def test_errors_keep_their_status_behind_vllms_own_handlers(client):
    def status(**body) -> int:
        response = client.post("/v1/classify", json=body)
        assert response.json()["error"]["code"] == response.status_code
        return response.status_code

    assert status(task="nobody", input="text") == 404
    assert status(task="alpha", input="") == 422
    assert status(task="alpha", input="word " * 1000) == 422
    json_header = {"Content-Type": "application/json"}
    assert client.post("/v1/classify", content=b"{", headers=json_header).status_code == 400


def test_vllms_own_endpoints_and_flags_are_there(client, server):
    assert httpx.post(f"{server}/v1/classify", json={}).status_code == 401  # --api-key
    assert client.get("/health").status_code == 200
    assert client.get("/docs").status_code == 200
    assert "vllm:request_success_total" in client.get("/metrics").text
    assert client.get("/v1/models").json()["data"][0]["max_model_len"] == 256


def test_vllms_own_classify_route_is_closed_and_behind_the_key(client, server):
    body = {"model": "alpha", "input": "my card"}
    assert httpx.post(f"{server}/classify", json=body).status_code == 401
    response = client.post("/classify", json=body)
    assert response.status_code == 404
    assert "/v1/classify" in response.json()["error"]["message"]


def test_the_admin_key_opens_every_route_and_an_api_key_only_those_that_change_nothing(server):
    def statuses(key: str) -> list[int]:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=server, headers=headers) as client:
            responses = [
                client.get("/v1/tasks"),
                client.post("/v1/tasks/reload"),
                client.put("/v1/tasks/alpha", content=b"x"),
                client.delete("/v1/tasks/nobody"),
            ]
        return [response.status_code for response in responses]

    assert statuses(ADMIN_KEY) == [200, 200, 415, 404]
    assert statuses("secret") == [200, 403, 403, 403]
    assert statuses("neither") == [401] * 4


def test_a_callers_trace_goes_on_into_the_engine(client, traces):
    trace, parent = secrets.token_bytes(16), secrets.token_bytes(8)
    headers = {
        "traceparent": f"00-{trace.hex()}-{parent.hex()}-01",
        "X-Request-Id": "of-this-trace",
    }
    body = {"task": "alpha", "input": TEXTS[0]}
    assert client.post("/v1/classify", json=body, headers=headers).status_code == 200
    deadline = time.monotonic() + 30
    while not (ours := [span for span in traces[1] if span.trace_id == trace]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert ours[0].parent_span_id == parent
    attributes = {one.key: one.value for one in ours[0].attributes}
    request_id = attributes["gen_ai.request.id"].string_value
    assert re.match(r"classify-\w+:alpha:of-this-trace:", request_id)
    assert attributes["gen_ai.latency.time_in_queue"].double_value >= 0


def test_everything_the_dashboard_alerts_and_autoscaler_ask_for_is_served(client):
    for body in ({"task": "alpha", "input": TEXTS}, {"task": "nobody", "input": "text"}):
        client.post("/v1/classify", json=body)
    served = served_names(client.get("/metrics").text)
    assert unknown_metrics(served) == {}


def test_the_log_has_every_request_and_no_text_and_no_key(client, log):
    client.post("/v1/classify", json={"task": "alpha", "input": TEXTS[7], "top_k": TEXTS[8]})
    lines = log.read_text()
    assert "method=POST path=/v1/classify status=422" in lines
    assert "request_id=of-this-trace task=alpha texts=1" in lines
    for secret in (*TEXTS, "Bearer", "'secret'", ADMIN_KEY):
        assert secret not in lines


def test_the_page_is_there_without_a_key(server):
    assert httpx.get(server).headers["content-type"].startswith("text/html")


def test_a_dead_engine_ends_the_server_for_its_supervisor(client, running):
    """The last test: nothing serves after it."""
    url, process = running
    work = {"task": "alpha", "input": TEXTS * 40}
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(client.post, "/v1/classify", json=work)
        until(lambda: in_engine(url) > 10)
        (engine,) = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline())
        ]
        engine.kill()
        answer = lost.result()
    assert answer.status_code == 503
    stopped = "the engine has stopped, and this server is about to"
    assert answer.json()["error"]["message"] == stopped
    assert process.wait(timeout=60) == 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/ready")
