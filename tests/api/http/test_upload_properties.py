"""Whatever is uploaded, the answer is one of ours and never a 500, and the folder stays sound."""

import json

import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given
from hypothesis import strategies as st

from api.access.admin_key import ADMIN_KEY_VARIABLE
from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE, load_artifact
from ifedicl_serve.contract.signing import SIGNATURE_FILE
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application
from tests.api.fake_engine import FakeEngine
from tests.ifedicl_serve.contract.test_artifact_damage import (
    damaged,
    flips,
    json_values,
    with_value_at,
)
from tests.ifedicl_serve.factory import MODEL, make_artifact

ANSWERS = {200, 201, 400, 404, 413, 415, 422}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    made = tmp_path_factory.mktemp("made") / "sst2"
    make_artifact(made)
    return {name: (made / name).read_bytes() for name in (TASK_FILE, VECTORS_FILE)}


@pytest.fixture(scope="module")
def admin(folder, tokenizer):
    """In this process, with exceptions that reach no handler raised here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ADMIN_KEY_VARIABLE, "key")
        app = application(TaskRegistry(folder, MODEL, tokenizer), tokenizer, FakeEngine())
    return TestClient(app, headers={"Authorization": "Bearer key"})


def answered(admin, folder, name="sst2", **request):
    response = admin.put(f"/v1/tasks/{name}", **request)
    assert response.status_code in ANSWERS, response.text
    if response.status_code >= 400:
        assert response.json()["error"]["code"] == response.status_code
    for entry in folder.iterdir():
        assert load_artifact(entry, MODEL).spec.name == entry.name
    return response.status_code


def test_what_is_not_damaged_is_taken(admin, folder, intact):
    files = {part: (part, raw) for part, raw in intact.items()}
    assert answered(admin, folder, files=files) in (200, 201)


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from([TASK_FILE, VECTORS_FILE, SIGNATURE_FILE, "more"]),
            st.binary(max_size=100),
        ),
        max_size=4,
    )
)
def test_forms_of_anything(admin, folder, parts):
    answered(admin, folder, files=[(name, (name, raw)) for name, raw in parts])


@given(content=st.binary(max_size=300), kind=st.sampled_from(["", "; boundary=b", "; boundary="]))
@example(content=b"--b\r\nContent-Disposition: form-data\r\n\r\n--b--", kind="; boundary=b")
def test_bodies_of_anything(admin, folder, content, kind):
    headers = {"Content-Type": f"multipart/form-data{kind}"}
    answered(admin, folder, content=content, headers=headers)


@given(
    part=st.sampled_from([TASK_FILE, VECTORS_FILE]),
    flips=flips,
    cut=st.floats(0, 1) | st.just(1.0),
    signature=st.none() | st.binary(max_size=70),
)
def test_damaged_artifacts(admin, folder, intact, part, flips, cut, signature):
    files = intact | {part: damaged(intact[part], flips, cut)}
    if signature is not None:
        files[SIGNATURE_FILE] = signature
    answered(admin, folder, files={part: (part, raw) for part, raw in files.items()})


@given(steps=st.lists(st.integers(0, 20), min_size=1, max_size=4), value=json_values)
def test_any_value_anywhere_in_the_task(admin, folder, intact, steps, value):
    task = with_value_at(json.loads(intact[TASK_FILE]), steps, value)
    files = intact | {TASK_FILE: json.dumps(task).encode()}
    answered(admin, folder, files={part: (part, raw) for part, raw in files.items()})
