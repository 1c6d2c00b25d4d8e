"""Uploads that could not serve: artifacts, forms, sizes."""

import json
import shutil
import socket

import pytest
import torch

from ifedicl_serve.contract.artifact import (
    MAX_TASK_FILE_BYTES,
    TASK_FILE,
    VECTORS_FILE,
    max_vectors_bytes,
)
from ifedicl_serve.contract.signing import SIGNATURE_BYTES, SIGNATURE_FILE
from tests.api.http.admin.conftest import ADMIN, KEY, TAKEN, classify, put, state
from tests.api.http.test_errors import error_of
from tests.ifedicl_serve.factory import (
    HIDDEN,
    LAYERS,
    MODEL,
    edit_task,
    edit_vectors,
    make_artifact,
    make_spec,
    make_vectors,
    replace_vectors,
)

# -- artifacts that could not serve


def narrow_vectors(made):
    """Of another shape than task.json says."""
    vectors = make_vectors(make_spec(hidden_size=HIDDEN // 2))
    edit_vectors(made, context_vector=vectors["context_vector"])


def rows_for_other_labels(made):
    """As many label rows as some other task has labels."""
    shutil.rmtree(made)
    make_artifact(made, rung="channels+head")
    edit_vectors(made, label_rows=torch.zeros(3, HIDDEN))


def endless_vectors(made):
    """Of no bytes, and of more numbers than a tensor can have in one dimension."""
    tensor = {"dtype": "F32", "shape": [0, (1 << 64) - 1], "data_offsets": [0, 0]}
    header = json.dumps({"context_vector": tensor}).encode()
    replace_vectors(made, len(header).to_bytes(8, "little") + header)


INVALID = {
    "not JSON": (
        lambda made: (made / TASK_FILE).write_text("{"),
        "sst2/task.json: not a JSON object; the file is damaged",
    ),
    "schema": (lambda made: edit_task(made, schema_version=3), "schema version 3, this release"),
    "field": (lambda made: edit_task(made, run="x"), "run: Extra inputs are not permitted"),
    "name": (
        lambda made: edit_task(made, name="trec"),
        "task.json is that of task 'trec', not of 'sst2'; upload it as 'trec' or calibrate it "
        "under the other name",
    ),
    "traversal": (lambda made: edit_task(made, name="../x"), "name: String should match pattern"),
    "model": (
        lambda made: edit_task(made, model=MODEL.model_dump() | {"weights_digest": "0"}),
        "sst2: calibrated on another model (weights digest 0 of 'base'",
    ),
    "shape": (
        lambda made: edit_task(made, hidden_size=HIDDEN // 2),
        f"sst2: made for {LAYERS} layers of width {HIDDEN // 2}, the served model has {LAYERS} of "
        f"width {HIDDEN}",
    ),
    "tensors": (
        narrow_vectors,
        "sst2/vectors.safetensors: context_vector is F32 (4, 2, 4)",
    ),
    "label rows": (
        rows_for_other_labels,
        "sst2/vectors.safetensors: label_rows is F32 (3, 8), expected F32 (2, 8)",
    ),
    "tensors too much for torch": (
        endless_vectors,
        "sst2/vectors.safetensors: holds ['context_vector'], expected",
    ),
    "vectors of another task": (
        lambda made: (made / VECTORS_FILE).write_bytes(b"x"),
        "sst2/vectors.safetensors: content does not match the SHA-256 in task.json",
    ),
    "pickle": (
        lambda made: replace_vectors(made, b"\x80\x04\x95cos\nsystem\n"),
        "sst2/vectors.safetensors: not a safetensors file",
    ),
    "labels": (
        lambda made: edit_task(
            made,
            labels=[
                {"name": "one", "verbalization": "same"},
                {"name": "two", "verbalization": "same"},
            ],
        ),
        "labels 'same' and 'same' have the same tokens",
    ),
}


@pytest.mark.parametrize(("damage", "message"), INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("existing", [True, False], ids=["over a task", "new"])
def test_an_artifact_that_could_not_serve_is_422_and_changes_nothing(
    admin, files, folder, registry, damage, message, existing
):
    if not existing:
        shutil.rmtree(folder / "sst2")
        registry.refresh()
    before, tasks = state(folder), admin.get("/v1/tasks").json()
    error = error_of(put(admin, "sst2", files(damage=damage)), 422)
    assert message in error["message"]
    assert str(folder) not in error["message"]
    assert state(folder) == before
    assert admin.get("/v1/tasks").json() == tasks


def test_case_13_a_task_named_like_the_base_model_is_422(admin, files, folder):
    before = state(folder)
    error = error_of(put(admin, TAKEN, files(name=TAKEN)), 422)
    assert f"task '{TAKEN}' has the name of a model of this server" in error["message"]
    assert state(folder) == before


# -- forms that are none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda form: form.pop(TASK_FILE), "the form holds vectors.safetensors; send the two"),
        (lambda form: form.pop(VECTORS_FILE), "the form holds task.json; send the two files"),
        (lambda form: form.update(more=("more", b"x")), "the form holds more, task.json, vectors"),
        (
            lambda form: form.update({SIGNATURE_FILE: ("x", b"x"), "more": ("more", b"x")}),
            "Too many files.",
        ),
        (lambda form: form.update({TASK_FILE: (None, b"{}")}), "Too many fields."),
        (
            lambda form: form.update(task=form.pop(TASK_FILE)),
            "the form holds task, vectors.safetensors; send the two files",
        ),
    ],
    ids=["no task.json", "no vectors", "a stranger", "a fourth", "a field", "another name"],
)
def test_a_form_of_other_parts_is_400(admin, files, folder, change, message):
    form, before = files(), state(folder)
    change(form)
    error = error_of(put(admin, "sst2", form), 400)
    assert error["message"].startswith(message)
    assert error["message"].endswith("-F task.json.sig=@task.json.sig if it is signed")
    assert state(folder) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"--b", b"no boundary", b"--b\r\n\r\n--b--", b"--b\r\nContent-Disposition: form-data"],
)
def test_a_body_that_is_no_form_is_400(admin, content):
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    error_of(admin.put("/v1/tasks/sst2", content=content, headers=headers), 400)


def test_a_form_cut_off_in_its_second_file_is_400(admin, files, folder):
    request = admin.build_request("PUT", "/v1/tasks/sst2", files=files())
    body, before = request.read()[:-200], state(folder)
    headers = {"Content-Type": request.headers["Content-Type"]}
    error = error_of(admin.put("/v1/tasks/sst2", content=body, headers=headers), 400)
    assert error["message"].startswith("the form holds task.json; send")
    assert state(folder) == before


@pytest.mark.parametrize("kind", ["application/json", "multipart/mixed", "application/zip", ""])
def test_a_body_of_another_type_is_415(admin, kind):
    response = admin.put("/v1/tasks/sst2", content=b"{}", headers={"Content-Type": kind})
    assert "curl -X PUT -F task.json=@task.json" in error_of(response, 415)["message"]


def test_a_form_without_a_boundary_is_400(admin):
    headers = {"Content-Type": "multipart/form-data"}
    error = error_of(admin.put("/v1/tasks/sst2", content=b"x", headers=headers), 400)
    assert error["message"].startswith("Missing boundary")


# -- sizes


LIMITS = {
    TASK_FILE: MAX_TASK_FILE_BYTES,
    VECTORS_FILE: max_vectors_bytes(LAYERS, HIDDEN),
    SIGNATURE_FILE: SIGNATURE_BYTES,
}
TOO_LARGE = sum(LIMITS.values()) + (1 << 20)


@pytest.mark.parametrize("name", LIMITS)
def test_a_file_larger_than_its_limit_is_413(admin, files, folder, name):
    form, before = files(), state(folder)
    form[name] = (name, bytes(LIMITS[name] + 1))
    error = error_of(put(admin, "sst2", form), 413)
    assert error["message"].startswith(
        f"{name} has {LIMITS[name] + 1} bytes, an artifact of the served model has at most "
        f"{LIMITS[name]};"
    )
    assert state(folder) == before


def test_a_file_as_large_as_its_limit_is_read_and_judged_by_its_content(admin, files):
    def pad(made):
        size = len((made / TASK_FILE).read_bytes())
        with (made / TASK_FILE).open("ab") as file:
            file.write(b" " * (MAX_TASK_FILE_BYTES - size))

    assert put(admin, "sst2", files(damage=pad)).status_code == 200


def test_a_body_that_claims_too_much_is_413_before_it_is_sent(admin):
    """The server asks for nothing of it: the client would wait for `100 Continue`."""
    headers = ADMIN | {
        "Content-Type": "multipart/form-data; boundary=b",
        "Content-Length": str(TOO_LARGE),
        "Expect": "100-continue",
    }
    assert raw_response(admin, headers, []).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_unknown_length_is_counted_while_it_is_read(admin, folder):
    """It never ends, so only what was counted can have refused it."""
    headers = ADMIN | {
        "Content-Type": "multipart/form-data; boundary=b",
        "Transfer-Encoding": "chunked",
    }
    part = f'--b\r\nContent-Disposition: form-data; name="{TASK_FILE}"; filename="x"\r\n\r\n'
    chunks = [part.encode(), *[bytes(1 << 16)] * (TOO_LARGE >> 16)]
    sent = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    assert raw_response(admin, headers, sent).startswith(b"HTTP/1.1 413 ")
    assert classify(admin, "sst2").status_code == 200


def raw_response(client, headers, body):
    """What comes back first, whatever the body still lacks."""
    with socket.create_connection((client.base_url.host, client.base_url.port), 30) as connection:
        lines = ["PUT /v1/tasks/sst2 HTTP/1.1", "Host: test", *map(": ".join, headers.items())]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        for piece in body:
            connection.sendall(piece)
        return connection.recv(1 << 16)


def test_a_client_that_goes_away_leaves_nothing(admin, folder):
    before = state(folder)
    address = (admin.base_url.host, admin.base_url.port)
    with socket.create_connection(address, 30) as connection:
        connection.sendall(
            b"PUT /v1/tasks/sst2 HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n"
            b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n--b\r\n"
        )
    assert classify(admin, "sst2").status_code == 200
    assert state(folder) == before
