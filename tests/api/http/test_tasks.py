"""`GET /v1/tasks`, `GET /v1/tasks/{name}` and its coefficients."""

from threading import current_thread

import pytest

from ifedicl_serve.contract.artifact import VECTORS_FILE, load_artifact
from ifedicl_serve.contract.injection import BETA, LAMBDA
from ifedicl_serve.contract.spec import CalibrationRecord
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
from tests.ifedicl_serve.factory import MODEL, make_artifact


def tasks(client):
    response = client.get("/v1/tasks")
    assert response.status_code == 200
    return response


def test_the_list_holds_every_artifact_and_whether_it_serves(client):
    body = tasks(client).json()
    assert body["object"] == "list"
    assert [(task["id"], task["status"]) for task in body["data"]] == [
        ("fatal", "ready"),
        ("sst2", "ready"),
        ("topics", "ready"),
        ("damaged", "refused"),
        ("stranger", "refused"),
    ]


def test_a_refused_artifact_is_listed_with_its_reason(client):
    refused = {task["id"]: task for task in tasks(client).json()["data"][3:]}
    assert refused["damaged"] == {
        "id": "damaged",
        "object": "task",
        "status": "refused",
        "reason": "damaged/vectors.safetensors: content does not match the SHA-256 in task.json; "
        "the file is damaged or from another task, copy the artifact again",
    }
    assert refused["stranger"]["reason"] == (
        "stranger: calibrated on another model (config digest 0 of 'elsewhere', not "
        "cccccccccccccccc of 'base'); serve that model or calibrate the task on this one"
    )


def test_the_list_holds_no_server_path(client, registry):
    assert str(registry.folder) not in tasks(client).text
    assert str(registry.folder.parent) not in tasks(client).text


def test_a_task_card_says_what_the_task_is(client, registry):
    response = client.get("/v1/tasks/topics")
    assert response.status_code == 200
    assert response.json() == {
        "id": "topics",
        "object": "task",
        "status": "ready",
        "digest": registry.get("topics").digest,
        "labels": [
            "world news",
            "business",
            "world sports",
            "world",
            "business of the world",
        ],
        "template": "Text: {text}\nTopic:",
        "base_model": "base",
        "layers": [2, 3],
        "sites": ["attn", "mlp"],
        "metrics": {"accuracy": 0.75},
        "verbalizations": [
            "world news",
            "business",
            "world sports",
            "world",
            "business of the world",
        ],
        "calibration": {
            "loss": "restricted",
            "rounds": 5,
            "round_losses": [],
            "seed": 0,
            "clients": 2,
            "examples": 16,
            "settings": {},
            "wire_bytes": {},
            "versions": {},
        },
    }


def test_the_card_says_more_than_the_list(client):
    """Ten thousand tasks are listed in one answer."""
    for listed in tasks(client).json()["data"][:3]:
        card = client.get(f"/v1/tasks/{listed['id']}").json()
        assert card.keys() - listed.keys() == {"verbalizations", "calibration"}
        assert card == card | listed


def test_a_card_never_shows_client_sizes(client, registry):
    """How many examples each client holds is the clients' business."""
    assert isinstance(registry.get("sst2").spec.calibration, CalibrationRecord)
    assert "client_sizes" not in tasks(client).text + client.get("/v1/tasks/sst2").text


@pytest.mark.parametrize("route", ["/v1/tasks/sst2", "/v1/tasks/sst2/coefficients", "/v1/classify"])
def test_an_artifact_is_not_read_where_requests_wait(tokenizer, tmp_path, monkeypatch, route):
    """A thousand labels take seconds, and one loop answers everybody."""
    monkeypatch.setattr("ifedicl_serve.tasks.registry.CHECKS_PER_REFRESH", 0)
    make_artifact(tmp_path / "sst2")
    registry = TaskRegistry(tmp_path, MODEL, tokenizer)
    threads = []
    check = registry.check
    monkeypatch.setattr(
        registry, "check", lambda *of: threads.append(current_thread().name) or check(*of)
    )
    body = {"json": {"task": "sst2", "input": "fine"}} if route == "/v1/classify" else {}
    with running(application(registry, tokenizer, FakeEngine())) as client:
        for _ in range(2):
            assert client.request("POST" if body else "GET", route, **body).status_code == 200
    assert threads == ["ifedicl-read_0"]


# -- coefficients


def test_coefficients_are_those_of_the_artifact(client, registry):
    response = client.get("/v1/tasks/sst2/coefficients")
    assert response.status_code == 200
    body = response.json()
    artifact = load_artifact(registry.get("sst2").folder)
    assert body.pop("beta") == artifact.coefficients[..., BETA].tolist()
    assert body.pop("lambda") == artifact.coefficients[..., LAMBDA].tolist()
    assert body == {
        "id": "sst2",
        "object": "task.coefficients",
        "digest": artifact.digest,
        "layers": [0, 1, 2, 3],
        "sites": ["attn", "mlp"],
    }


@pytest.fixture
def own(tokenizer, tmp_path):
    """A folder of one task, and a client of its server."""
    make_artifact(tmp_path / "sst2")
    registry = TaskRegistry(tmp_path, MODEL, tokenizer)
    with running(application(registry, tokenizer, FakeEngine())) as client:
        assert client.get("/v1/tasks/sst2/coefficients").status_code == 200
        yield tmp_path, client


def test_coefficients_of_a_replaced_task_are_the_new_ones(own):
    folder, client = own
    artifact = make_artifact(folder / "sst2", seed=1)
    body = client.get("/v1/tasks/sst2/coefficients").json()
    assert body["digest"] == artifact.digest
    assert body["beta"] == artifact.coefficients[..., BETA].tolist()


def test_coefficients_of_an_artifact_that_is_gone_are_not_found(own):
    folder, client = own
    (folder / "sst2").rename(folder.parent / f"{folder.name}-elsewhere")
    response = client.get("/v1/tasks/sst2/coefficients")
    assert response.status_code == 404
    assert "task 'sst2' is not loaded" in response.json()["error"]["message"]


def test_coefficients_of_a_damaged_artifact_are_refused_with_the_reason(own):
    folder, client = own
    (folder / "sst2" / VECTORS_FILE).write_bytes(b"")
    response = client.get("/v1/tasks/sst2/coefficients")
    assert response.status_code == 404
    assert "content does not match the SHA-256" in response.json()["error"]["message"]
