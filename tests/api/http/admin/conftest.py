"""The admin routes: who may use them, what they change, and every way in which they refuse."""

import os
import shutil

import pytest

from api.access.admin_key import ADMIN_KEY_VARIABLE
from ifedicl_serve.contract.artifact import (
    TASK_FILE,
    VECTORS_FILE,
)
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
from tests.ifedicl_serve.factory import (
    MODEL,
    make_artifact,
)

KEY = "a-key-that-nobody-guesses"
TAKEN = "name-of-the-base-model"
ADMIN = {"Authorization": f"Bearer {KEY}"}
CHANGES = [("PUT", "/v1/tasks/sst2"), ("DELETE", "/v1/tasks/sst2"), ("POST", "/v1/tasks/reload")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """In a folder of its own, as tests look at what is beside it."""
    folder = tmp_path_factory.mktemp("admin") / "tasks"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def registry(folder, tokenizer):
    """In place of conftest's, whose folder is not to be changed."""
    return TaskRegistry(folder, MODEL, tokenizer, taken=frozenset({TAKEN}))


@pytest.fixture(scope="module")
def admin(registry, tokenizer):
    """A client with the admin key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ADMIN_KEY_VARIABLE, KEY)
        app = application(registry, tokenizer, FakeEngine())
    with running(app) as client:
        client.headers.update(ADMIN)
        yield client


@pytest.fixture(autouse=True)
def only_sst2(folder, registry):
    """The folder as every test finds it; none leaves anything hidden in it."""
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    make_artifact(folder / "sst2")
    registry.refresh()
    yield
    assert [name for name in os.listdir(folder) if name.startswith(".")] == []


@pytest.fixture
def files(tmp_path):
    """Write an artifact elsewhere; its two files as a form."""

    def files(name="sst2", damage=None, **changes):
        make_artifact(tmp_path / "made", name=name, **changes)
        if damage:
            damage(tmp_path / "made")
        return {
            field: (field, (tmp_path / "made" / field).read_bytes())
            for field in (TASK_FILE, VECTORS_FILE)
        }

    return files


def put(client, name, files, **options):
    return client.put(f"/v1/tasks/{name}", files=files, **options)


def classify(client, task):
    return client.post("/v1/classify", json={"task": task, "input": "fine"})


def state(folder):
    """Every file below the folder, hidden ones too, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
