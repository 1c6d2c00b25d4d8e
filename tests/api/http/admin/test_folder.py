"""A folder that takes nothing; tasks deleted, and looked for again."""

import errno
import os
import shutil
import tempfile

import pytest

from ifedicl_serve.contract.artifact import (
    VECTORS_FILE,
)
from tests.api.http.admin.conftest import classify, put, state
from tests.api.http.test_errors import error_of
from tests.ifedicl_serve.factory import (
    make_artifact,
)

# -- a folder that takes nothing


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (errno.EROFS, 409, "the tasks directory cannot be changed (Read-only file system); mount"),
        (errno.EACCES, 409, "the tasks directory cannot be changed (Permission denied); mount"),
        (errno.ENOSPC, 507, "no space for the task (No space left on device), nothing was written"),
    ],
)
def test_a_folder_that_cannot_be_written_is_said_so(
    admin, files, folder, monkeypatch, number, status, message
):
    """Tests run as root, who may write anywhere: the system's answer is made up."""

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    before, form = state(folder), files(seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", fail)
        patch.setattr("pathlib.Path.rename", fail)
        for response in (put(admin, "sst2", form), admin.delete("/v1/tasks/sst2")):
            error = error_of(response, status)
            assert error["message"].startswith(message)
            assert str(folder) not in error["message"]
    assert state(folder) == before
    assert classify(admin, "sst2").status_code == 200


def test_a_disk_that_fills_half_way_keeps_the_old_task(admin, files, folder, monkeypatch):
    def fail(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before, form = state(folder), files(seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        error_of(put(admin, "sst2", form), 507)
    assert state(folder) == before
    assert os.listdir(folder) == ["sst2"]


def test_a_tasks_directory_that_is_away_is_409(admin, files, folder):
    away = folder.rename(folder.with_name("away"))
    try:
        for response in (
            put(admin, "sst2", files()),
            admin.delete("/v1/tasks/sst2"),
            admin.post("/v1/tasks/reload"),
        ):
            assert "cannot be read (No such file" in error_of(response, 409)["message"]
        assert classify(admin, "sst2").status_code == 200
    finally:
        away.rename(folder)


# -- delete


def test_a_deleted_task_is_gone_when_the_answer_comes(admin, folder):
    response = admin.delete("/v1/tasks/sst2")
    assert (response.status_code, response.content) == (204, b"")
    error_of(classify(admin, "sst2"), 404)
    error_of(admin.get("/v1/tasks/sst2"), 404)
    assert os.listdir(folder) == []


def test_deleting_an_unknown_task_is_404(admin):
    assert "'trec' is not loaded" in error_of(admin.delete("/v1/tasks/trec"), 404)["message"]


def test_a_task_is_deleted_from_the_sub_folder_that_serves_it(admin, folder):
    (folder / "sst2").rename(folder / "sentiment-v3")
    error_of(admin.delete("/v1/tasks/sentiment-v3"), 404)
    assert admin.delete("/v1/tasks/sst2").status_code == 204
    assert os.listdir(folder) == []


def test_a_refused_artifact_is_deleted_by_the_id_it_is_listed_with(admin, folder):
    make_artifact(folder / "damaged", name="other")
    (folder / "damaged" / VECTORS_FILE).write_bytes(b"")
    assert admin.delete("/v1/tasks/damaged").status_code == 204
    assert os.listdir(folder) == ["sst2"]


@pytest.mark.parametrize("name", ["my task", "_old", "k\xf6ln"])
def test_a_refused_artifact_is_deleted_also_where_no_task_could_be_called_so(admin, folder, name):
    make_artifact(folder / name, name="other")
    (folder / name / VECTORS_FILE).write_bytes(b"")
    admin.post("/v1/tasks/reload")
    assert name in [task["id"] for task in admin.get("/v1/tasks").json()["data"]]
    assert admin.delete(f"/v1/tasks/{name}").status_code == 204
    assert os.listdir(folder) == ["sst2"]


def test_a_task_in_two_sub_folders_is_deleted_only_once_the_refused_one_is(admin, folder):
    """Otherwise it would serve on, from the other."""
    make_artifact(folder / "twin")
    message = error_of(admin.delete("/v1/tasks/sst2"), 409)["message"]
    assert message.startswith("task 'sst2' is in the sub-folders sst2, twin, and would serve")
    assert admin.delete("/v1/tasks/twin").status_code == 204
    assert admin.delete("/v1/tasks/sst2").status_code == 204
    error_of(classify(admin, "sst2"), 404)


# -- reload


def test_reload_says_what_changed(admin, folder):
    trec = make_artifact(folder / "trec", name="trec").digest
    (folder / "empty").mkdir()
    shutil.rmtree(folder / "sst2")
    response = admin.post("/v1/tasks/reload")
    assert response.status_code == 200
    assert response.json() == {
        "object": "reload",
        "changed": {
            "empty": "refused, empty: cannot read task.json: No such file or directory",
            "sst2": "removed",
            "trec": f"serves task 'trec', {trec[:16]}",
        },
    }
    assert classify(admin, "trec").status_code == 200
    assert admin.post("/v1/tasks/reload").json()["changed"] == {}
