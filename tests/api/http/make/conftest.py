"""A server whose tasks are made from examples, on an engine that tells words apart."""

import json
import time

import pytest

from api.access.admin_key import ADMIN_KEY_VARIABLE
from api.access.keys import KeyTasks
from api.making.store import FOLDER
from ifedicl_serve.schema_jobs import FINAL
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
from tests.ifedicl_serve.factory import MODEL, make_artifact

ADMIN_KEY, TEAM_KEY, USER_KEY = "of-the-operator", "of-a-team", "of-a-user"
KEYS = {TEAM_KEY: KeyTasks(("sst2", "team-*"), ("team-*",)), USER_KEY: KeyTasks(("*",))}
TAKEN = "name-of-the-base-model"
WORDS = {
    "card": ("card", "pin", "chip", "swipe"),
    "cash": ("cash", "coins", "notes", "atm"),
    "loan": ("loan", "debt", "interest", "borrow"),
}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def examples(each=8, labels=tuple(WORDS)):
    """So many of each label, in turn; a text has two of its label's words."""
    return [
        {"text": f"{WORDS[label][n % 4]} and {WORDS[label][(n // 4 + 1) % 4]} {n}", "label": label}
        for n in range(each)
        for label in labels
    ]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    make_artifact(folder / "sst2")
    return folder


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def registry(folder, tokenizer):
    return TaskRegistry(folder, MODEL, tokenizer, taken=frozenset({TAKEN}))


@pytest.fixture
def app(registry, tokenizer, engine, monkeypatch):
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, ADMIN_KEY)
    return application(registry, tokenizer, engine, [*KEYS, ADMIN_KEY], keys=KEYS)


@pytest.fixture
def client(app):
    """With the admin key."""
    with running(app) as client:
        client.headers.update(bearer(ADMIN_KEY))
        yield client


def create(client, name="team-banking", key=ADMIN_KEY, **changes):
    body = {"name": name, "examples": examples()} | changes
    headers = bearer(key) | {"Content-Type": "application/json"}
    return client.post("/v1/tasks", content=json.dumps(body), headers=headers)


def job_of(client, job_id, key=ADMIN_KEY):
    response = client.get(f"/v1/jobs/{job_id}", headers=bearer(key))
    assert response.status_code == 200, response.text
    return response.json()


def until(client, job_id, *statuses):
    """The job, when it is in one of these states; none is passed by unseen but by an end."""
    while (job := job_of(client, job_id))["status"] not in (*statuses, *FINAL):
        time.sleep(0.005)
    assert job["status"] in statuses, job
    return job


def hidden(folder):
    """What lies in the folder that is no task, but for the jobs."""
    return [path.name for path in folder.iterdir() if path.name[0] == "." and path.name != FOLDER]
