"""API keys: what is open without one, and what a key with tasks of its own sees."""

import shutil

import httpx
import pytest

from api.access.guard import OPEN, Keyring
from api.access.keys import allows
from api.observe.context import current_request
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
from tests.api.http.test_errors import error_of
from tests.ifedicl_serve.factory import MODEL, make_artifact

KEYS = {"of-a-team": ("sst2",), "of-topics": ("top*", "nobody"), "of-all-tasks": ("*",)}


@pytest.fixture(scope="module")
def app(registry, tokenizer):
    app = application(
        registry, tokenizer, FakeEngine(), api_keys=["of-everybody", *KEYS], keys=KEYS
    )

    @app.post("/v1/completions")
    @app.post("/v1/embeddings")
    @app.post("/pooling")
    @app.get("/load")
    async def of_vllm() -> dict[str, str]:
        return {"answered": "by vLLM"}

    return app


@pytest.fixture(scope="module")
def client(app):
    with running(app) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def classify(client: httpx.Client, key: str, task: str) -> httpx.Response:
    body = {"task": task, "input": "text"}
    return client.post("/v1/classify", json=body, headers=bearer(key))


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), {"Authorization": "Bearer"}, {"Authorization": "of-everybody"},
     {"Authorization": "Basic of-everybody"}, bearer("of-everybodyy"), bearer("ähnlich")],
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/tasks"), ("POST", "/v1/classify"), ("POST", "/pooling"), ("GET", "/load"),
     ("POST", "/classify"), ("GET", "/nowhere"), ("GET", "/health/"), ("GET", "/%2e%2e/load")],
)  # fmt: skip
def test_with_keys_nothing_that_works_is_open(client, headers, method, path):
    raw = {name: value.encode() for name, value in headers.items()}
    response = client.request(method, path, headers=raw)
    assert "'Authorization: Bearer KEY'" in error_of(response, 401)["message"]
    assert response.headers["www-authenticate"] == "Bearer"


def test_probes_are_open(client, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))  # as the command does
    assert client.get("/ready").status_code == 200
    assert client.get("/health").status_code == 404  # vLLM's, which is not here
    assert all(client.get(path).status_code != 401 for path in OPEN)


def test_without_keys_everything_is_open(registry, tokenizer):
    with running(application(registry, tokenizer, FakeEngine())) as client:
        assert client.get("/v1/tasks").status_code == 200


def test_a_key_without_tasks_of_its_own_may_do_everything(client):
    assert classify(client, "of-everybody", "sst2").status_code == 200
    assert client.get("/load", headers=bearer("of-everybody")).status_code == 200
    listed = client.get("/v1/tasks", headers=bearer("of-everybody")).json()["data"]
    assert {"sst2", "topics", "damaged"} <= {task["id"] for task in listed}


@pytest.mark.parametrize(
    ("key", "task", "status"),
    [("of-a-team", "sst2", 200), ("of-a-team", "topics", 404), ("of-topics", "topics", 200),
     ("of-topics", "sst2", 404), ("of-all-tasks", "topics", 200)],
)  # fmt: skip
def test_a_key_classifies_with_its_tasks_alone(client, key, task, status):
    assert classify(client, key, task).status_code == status


def classify_by(client: httpx.Client, key: str, tasks: str | list[str]) -> httpx.Response:
    body = {"tasks": tasks, "input": "text"}
    return client.post("/v1/classify", json=body, headers=bearer(key))


def test_all_tasks_are_all_that_a_key_may_use(client):
    for key, tasks in (("of-a-team", ["sst2"]), ("of-topics", ["topics"])):
        answer = classify_by(client, key, "*").json()
        assert [entry["task"] for entry in answer["data"]] == tasks
    everything = classify_by(client, "of-everybody", "*").json()["data"]
    assert [entry["task"] for entry in everything] == ["fatal", "sst2", "topics"]
    assert classify_by(client, "of-all-tasks", "*").json()["data"] == everything


def test_in_a_list_a_task_of_others_is_told_apart_from_no_task_by_nothing(client):
    ours, others, nobodys = classify_by(client, "of-topics", ["topics", "sst2", "nobody"]).json()[
        "data"
    ]
    assert ours["label"]
    message = others["error"]["message"]
    assert message.replace("sst2", "nobody") == nobodys["error"]["message"]
    assert message == error_of(classify(client, "of-topics", "sst2"), 404)["message"]


def test_a_task_of_others_is_told_apart_from_no_task_by_nothing(client):
    others, nobodys = (
        error_of(classify(client, "of-topics", task), 404)["message"] for task in ("sst2", "nobody")
    )
    assert others.replace("sst2", "nobody") == nobodys
    assert others == "task 'sst2' is not loaded, or not for this key; it may use: top*, nobody"
    card = client.get("/v1/tasks/sst2", headers=bearer("of-topics"))
    assert error_of(card, 404)["message"] == others


def test_a_task_that_vanishes_tells_a_key_of_no_others(tmp_path, tokenizer):
    """In the middle of a request, and for what was fitted for it."""
    registry = TaskRegistry(tmp_path, MODEL, tokenizer)
    for name in ("topics", "secret"):
        make_artifact(tmp_path / name, name=name)
    registry.refresh()
    engine = FakeEngine()
    engine.unavailable.add(registry.get("topics").digest)
    with running(
        application(registry, tokenizer, engine, api_keys=list(KEYS), keys=KEYS)
    ) as client:
        shutil.rmtree(tmp_path / "topics")
        answers = [
            classify(client, "of-topics", "topics"),
            client.get("/v1/tasks/topics/fitted", headers=bearer("of-topics")),
        ]
    for answer in answers:
        assert answer.status_code == 404
        assert "secret" not in answer.text


def test_a_key_lists_its_tasks_alone_and_no_refused_artifact(client):
    listed = client.get("/v1/tasks", headers=bearer("of-topics")).json()["data"]
    assert [task["id"] for task in listed] == ["topics"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/embeddings"), ("POST", "/pooling"), ("GET", "/load")]
)
def test_a_key_with_tasks_of_its_own_has_no_route_that_knows_no_tasks(client, method, path):
    response = client.request(method, path, headers=bearer("of-a-team"))
    assert error_of(response, 403)["message"] == (
        f"this key is for its tasks alone, and {path} knows no tasks"
    )
    assert client.post("/v1/completions", headers=bearer("of-a-team")).status_code == 200


def test_keys_with_tasks_of_their_own_have_kv_of_their_own(registry, tokenizer):
    """Though what their tasks share of a text is the base model's. In another process, and after
    another start, a key has the same."""

    class Salted(FakeEngine):
        async def token_scores(self, prompt_ids, request):
            salts.append(current_request().cache_salt())
            return await super().token_scores(prompt_ids, request)

    salts = []
    every, of_all, of_a_team = "of-everybody", "of-all-tasks", "of-a-team"
    for _ in range(2):
        app = application(registry, tokenizer, Salted(), api_keys=[every, *KEYS], keys=KEYS)
        with running(app) as client:
            for key in (every, of_all, of_a_team):
                assert classify(client, key, "sst2").status_code == 200
    assert salts[:3] == salts[3:]
    assert salts[0] is None and len(set(salts)) == 3
    assert of_a_team not in str(salts)


def test_keys_are_held_as_digests():
    keyring = Keyring(list(KEYS), KEYS)
    assert "of-a-team" in keyring
    assert "of-a-team" not in repr(vars(keyring))


@pytest.mark.parametrize(
    ("pattern", "task", "allowed"),
    [("sst2", "sst2", True), ("sst2", "SST2", False), ("sst2", "sst2-b", False),
     ("sst*", "sst2", True), ("*", "sst2", True), ("s[ab]t", "sat", True), ("", "", True)],
)  # fmt: skip
def test_patterns_are_names_or_globs(pattern, task, allowed):
    assert allows((pattern,), task) == allowed
