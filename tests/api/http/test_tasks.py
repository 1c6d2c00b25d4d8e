"""`GET /v1/tasks`, `GET /v1/tasks/{name}` and what was fitted for it."""

from hashlib import sha256
from threading import current_thread

import numpy as np
import pytest
import torch

from ifedicl_serve.contract.artifact import VECTORS_FILE, load_artifact
from ifedicl_serve.contract.injection import BETA, LAMBDA
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import CalibrationRecord, RungRecord
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
from tests.ifedicl_serve.factory import (
    HIDDEN,
    LAYERS,
    MODEL,
    NOTHING_ADAPTED,
    edit_vectors,
    make_artifact,
    make_spec,
)


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
        "rung": "coefficients",
        "extent": "all",
        "adapts_text": True,
        "head_digest": sha256(b"Text: ").hexdigest(),
        "layers": [2, 3],
        "sites": ["attn", "mlp"],
        "metrics": {"accuracy": 0.75},
        "prompt": {"head": "Text: ", "tail": "\nTopic:", "label_prefix": " "},
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
            "rungs": [],
            "settings": {},
            "wire_bytes": {},
            "versions": {},
        },
    }


def test_the_card_says_more_than_the_list(client):
    """Ten thousand tasks are listed in one answer."""
    for listed in tasks(client).json()["data"][:3]:
        card = client.get(f"/v1/tasks/{listed['id']}").json()
        assert card.keys() - listed.keys() == {"prompt", "verbalizations", "calibration"}
        assert card == card | listed


def test_a_card_never_shows_client_sizes(client, registry):
    """How many examples each client holds is the clients' business."""
    assert isinstance(registry.get("sst2").spec.calibration, CalibrationRecord)
    assert "client_sizes" not in tasks(client).text + client.get("/v1/tasks/sst2").text


@pytest.mark.parametrize("route", ["/v1/tasks/sst2", "/v1/tasks/sst2/fitted", "/v1/classify"])
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


# -- rungs

TRIED = (
    RungRecord(
        name="zero-shot", numbers=0, log_loss=0.9, excess=0.5, standard_error=0.1, accuracy=0.5
    ),
    RungRecord(
        name="channels+head", numbers=146, log_loss=0.4, excess=0, standard_error=0, accuracy=0.75
    ),
)


@pytest.fixture
def rungs(tokenizer, tmp_path):
    """A folder, and a client of its server: a task of channels and label rows behind the text, and
    one of label rows alone."""
    made = make_spec().calibration.model_copy(update={"rungs": TRIED})
    make_artifact(
        tmp_path / "most", name="most", rung="channels+head", extent="tail", calibration=made
    )
    make_artifact(tmp_path / "least", name="least", rung="head", **NOTHING_ADAPTED)
    registry = TaskRegistry(tmp_path, MODEL, tokenizer)
    with running(application(registry, tokenizer, FakeEngine())) as client:
        yield tmp_path, client


def test_the_list_and_the_card_say_rung_and_extent(rungs):
    _, client = rungs
    listed = [(task["id"], task["rung"], task["extent"]) for task in tasks(client).json()["data"]]
    assert listed == [("least", "head", "all"), ("most", "channels+head", "tail")]
    card = client.get("/v1/tasks/least").json()
    assert (card["rung"], card["layers"], card["sites"]) == ("head", [], [])


def test_the_list_says_which_tasks_compute_a_text_once(tokenizer, tmp_path):
    """Those of one head that adapt no token of it."""
    reviews, texts = (PromptTemplate.of(f"{kind}: {{text}}\nGood?") for kind in ("Review", "Text"))
    make_artifact(tmp_path / "all", name="all")
    make_artifact(tmp_path / "tail", name="tail", extent="tail", prompt=reviews)
    for name, prompt in (("head", reviews), ("other", texts)):
        make_artifact(tmp_path / name, name=name, prompt=prompt, rung="head", **NOTHING_ADAPTED)
    registry = TaskRegistry(tmp_path, MODEL, tokenizer)
    with running(application(registry, tokenizer, FakeEngine())) as client:
        listed = {task["id"]: task for task in tasks(client).json()["data"]}
    assert [name for name, task in listed.items() if task["adapts_text"]] == ["all"]
    heads = {name: task["head_digest"] for name, task in listed.items()}
    assert heads["all"] == heads["tail"] == heads["head"] != heads["other"]


def test_the_card_says_what_was_tried_and_which_was_chosen(rungs):
    _, client = rungs
    card = client.get("/v1/tasks/most").json()
    tried = card["calibration"]["rungs"]
    assert tried == [rung.model_dump() for rung in TRIED]
    assert [rung["name"] == card["rung"] for rung in tried] == [False, True]


# -- fitted


def test_fitted_are_the_coefficients_and_what_they_fold_into(client, registry):
    response = client.get("/v1/tasks/sst2/fitted")
    assert response.status_code == 200
    body = response.json()
    artifact = load_artifact(registry.get("sst2").folder)
    beta, lam = artifact.coefficients[..., BETA], artifact.coefficients[..., LAMBDA]
    length = artifact.context_vector.norm(dim=-1) / HIDDEN**0.5
    shift = torch.tensor(body["injection"].pop("shift"))
    assert torch.allclose(shift, lam.abs() * length, atol=1e-6)
    assert body == {
        "id": "sst2",
        "object": "task.fitted",
        "digest": artifact.digest,
        "injection": {
            "layers": [0, 1, 2, 3],
            "sites": ["attn", "mlp"],
            "scale": beta.tolist(),
            "scale_spread": [[0, 0]] * LAYERS,
            "beta": beta.tolist(),
            "lambda": lam.tolist(),
        },
        "readout": None,
    }


def test_fitted_channels_are_told_by_mean_spread_and_size(rungs):
    folder, client = rungs
    injection = client.get("/v1/tasks/most/fitted").json()["injection"]
    tensors = load_artifact(folder / "most").tensors
    scale, shift = tensors["scale"].numpy(), tensors["shift"].numpy()
    assert np.allclose(injection["scale"], scale.mean(-1))
    assert np.allclose(injection["scale_spread"], scale.std(-1))
    assert np.allclose(injection["shift"], np.sqrt((shift**2).mean(-1)))
    assert injection["beta"] is injection["lambda"] is None
    for layer in (0, 1):  # not adapted
        seen = [injection[name][layer] for name in ("scale", "scale_spread", "shift")]
        assert seen == [[1, 1], [0, 0], [0, 0]]


def test_a_shift_whose_square_overflows_float32_is_told(rungs):
    folder, client = rungs
    shift = load_artifact(folder / "most").tensors["shift"].clone()
    shift[3] = 3e38
    edit_vectors(folder / "most", shift=shift)
    told = client.get("/v1/tasks/most/fitted").json()["injection"]["shift"]
    assert told[3] == pytest.approx([3e38, 3e38])


def test_a_task_that_adapts_nothing_is_the_identity_with_a_readout(rungs):
    folder, client = rungs
    body = client.get("/v1/tasks/least/fitted").json()
    bias = load_artifact(folder / "least").tensors["bias"].tolist()
    assert body["injection"] == {
        "layers": [0, 1, 2, 3],
        "sites": ["attn", "mlp"],
        "scale": [[1, 1]] * LAYERS,
        "scale_spread": [[0, 0]] * LAYERS,
        "shift": [[0, 0]] * LAYERS,
        "beta": None,
        "lambda": None,
    }
    assert body["readout"] == {
        "sharpness": 1.5,
        "bias": dict(zip(("negative", "positive"), bias, strict=True)),
        "label_rows": True,
    }


def test_a_bias_without_label_rows_says_so(rungs):
    folder, client = rungs
    make_artifact(folder / "least", name="least", rung="bias", **NOTHING_ADAPTED)
    assert client.get("/v1/tasks/least/fitted").json()["readout"]["label_rows"] is False


@pytest.fixture
def own(tokenizer, tmp_path):
    """A folder of one task, and a client of its server."""
    make_artifact(tmp_path / "sst2")
    registry = TaskRegistry(tmp_path, MODEL, tokenizer)
    with running(application(registry, tokenizer, FakeEngine())) as client:
        assert client.get("/v1/tasks/sst2/fitted").status_code == 200
        yield tmp_path, client


def test_what_was_fitted_for_a_replaced_task_is_of_the_new_one(own):
    folder, client = own
    artifact = make_artifact(folder / "sst2", seed=1)
    body = client.get("/v1/tasks/sst2/fitted").json()
    assert body["digest"] == artifact.digest
    assert body["injection"]["beta"] == artifact.coefficients[..., BETA].tolist()


def test_what_was_fitted_for_an_artifact_that_is_gone_is_not_found(own):
    folder, client = own
    (folder / "sst2").rename(folder.parent / f"{folder.name}-elsewhere")
    response = client.get("/v1/tasks/sst2/fitted")
    assert response.status_code == 404
    assert "task 'sst2' is not loaded" in response.json()["error"]["message"]


def test_what_was_fitted_for_a_damaged_artifact_is_refused_with_the_reason(own):
    folder, client = own
    (folder / "sst2" / VECTORS_FILE).write_bytes(b"")
    response = client.get("/v1/tasks/sst2/fitted")
    assert response.status_code == 404
    assert "content does not match the SHA-256" in response.json()["error"]["message"]
