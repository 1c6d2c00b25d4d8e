"""`GET /v1/tasks` and `GET /v1/tasks/{name}`."""

from ifedicl_serve.artifact import CalibrationRecord


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
    }


def test_the_list_and_the_card_agree(client):
    for card in tasks(client).json()["data"][:3]:
        assert client.get(f"/v1/tasks/{card['id']}").json() == card


def test_a_card_never_shows_client_sizes(client, registry):
    """How many examples each client holds is the clients' business."""
    assert isinstance(registry.get("sst2").spec.calibration, CalibrationRecord)
    assert "client_sizes" not in tasks(client).text
