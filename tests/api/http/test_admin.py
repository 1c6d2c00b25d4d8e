"""The admin routes: who may use them, what they change, and every way in which they refuse."""

import errno
import json
import os
import shutil
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from api.access.admin_key import ADMIN_KEY_VARIABLE
from ifedicl_serve.contract.artifact import (
    MAX_TASK_FILE_BYTES,
    TASK_FILE,
    VECTORS_FILE,
    load_artifact,
    max_vectors_bytes,
)
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.signing import SIGNATURE_BYTES, SIGNATURE_FILE, read_signature
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
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

KEY = "a-key-that-nobody-guesses"
ADMIN = {"Authorization": f"Bearer {KEY}"}
CHANGES = [("PUT", "/v1/tasks/sst2"), ("DELETE", "/v1/tasks/sst2"), ("POST", "/v1/tasks/reload")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def registry(folder, tokenizer):
    """In place of conftest's, whose folder is not to be changed."""
    return TaskRegistry(folder, MODEL, tokenizer)


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


# -- who may


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        (KEY, 401),
        (f"Basic {KEY}", 401),
        ("Bearer", 401),
        ("Bearer wrong", 403),
        (f"Bearer {KEY}x", 403),
        (f"Bearer {KEY[:-1]}", 403),
        (f"Bearer {KEY} x", 403),
        ("Bearer \xe9", 403),
    ],
)
def test_no_key_is_401_and_another_one_403(admin, folder, method, path, authorization, status):
    before = state(folder)
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    with httpx.Client(base_url=admin.base_url) as stranger:
        response = stranger.request(method, path, headers=headers)
    message = error_of(response, status)["message"]
    assert "admin key" in message and KEY not in message
    assert response.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert state(folder) == before


def test_the_scheme_is_not_case_sensitive(admin):
    response = admin.post("/v1/tasks/reload", headers={"Authorization": f"bearer {KEY}"})
    assert response.status_code == 200


def test_a_stranger_is_refused_before_the_name_and_the_body_are_looked_at(admin):
    with httpx.Client(base_url=admin.base_url) as stranger:
        response = stranger.put("/v1/tasks/.hidden", content=b"anything")
    error_of(response, 401)


def test_no_key_is_asked_for_where_nothing_changes(admin):
    with httpx.Client(base_url=admin.base_url) as stranger:
        assert stranger.get("/v1/tasks/sst2").status_code == 200
        assert classify(stranger, "sst2").status_code == 200


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_key_there_are_no_admin_routes(registry, tokenizer, monkeypatch, value):
    monkeypatch.delenv(ADMIN_KEY_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(ADMIN_KEY_VARIABLE, value)
    with running(application(registry, tokenizer, FakeEngine())) as client:
        for method, path in CHANGES:
            for headers in ({}, {"Authorization": "Bearer"}, ADMIN):
                response = client.request(method, path, headers=headers)
                assert ADMIN_KEY_VARIABLE in error_of(response, 404)["message"]
        assert client.get("/v1/tasks/sst2").status_code == 200


# -- upload


def test_a_new_task_serves_when_the_answer_comes(admin, files, folder):
    response = put(admin, "trec", files("trec"))
    assert response.status_code == 201
    assert response.json() == admin.get("/v1/tasks/trec").json()
    assert classify(admin, "trec").json()["task_digest"] == response.json()["digest"]
    assert load_artifact(folder / "trec").digest == response.json()["digest"]
    assert (folder / "trec").stat().st_mode & 0o777 == 0o755


def test_a_task_is_replaced_and_the_next_request_gets_the_new_one(admin, files, registry):
    old = registry.get("sst2").digest
    response = put(admin, "sst2", files(seed=1))
    assert response.status_code == 200
    assert response.json()["digest"] != old
    assert classify(admin, "sst2").json()["task_digest"] == response.json()["digest"]


def test_the_same_task_again_is_a_replacement(admin, files, registry):
    digest = registry.get("sst2").digest
    assert put(admin, "sst2", files()).json()["digest"] == digest


def test_file_names_order_and_types_in_the_form_do_not_matter(admin, files, folder):
    form = files("trec")
    form = {
        VECTORS_FILE: ("../../etc/passwd", form[VECTORS_FILE][1], "text/plain"),
        TASK_FILE: ("/tmp/x", form[TASK_FILE][1], "image/png"),
    }
    assert put(admin, "trec", form).status_code == 201
    assert sorted(state(folder)) == sorted(
        f"{task}/{file}" for task in ("sst2", "trec") for file in (TASK_FILE, VECTORS_FILE)
    )


def test_an_upload_may_carry_a_signature(admin, files, folder):
    form = files() | {SIGNATURE_FILE: ("x", bytes(SIGNATURE_BYTES))}
    assert put(admin, "sst2", form).status_code == 200
    assert read_signature(folder / "sst2") == bytes(SIGNATURE_BYTES)
    form[SIGNATURE_FILE] = ("x", b"cut")
    message = error_of(put(admin, "sst2", form), 422)["message"]
    assert message.startswith("sst2/task.json.sig: has 3 bytes, an Ed25519 signature has 64;")


def test_a_file_sent_twice_is_400(admin, files):
    form = [*files().items(), (TASK_FILE, ("again", b"{}"))]
    message = error_of(put(admin, "sst2", form), 400)["message"]
    assert message.startswith("the form holds task.json, task.json, vectors.safetensors; send")


def test_a_task_may_be_called_reload(admin, files):
    assert put(admin, "reload", files("reload")).status_code == 201
    assert admin.get("/v1/tasks/reload").json()["id"] == "reload"
    assert admin.post("/v1/tasks/reload").json()["object"] == "reload"
    assert admin.delete("/v1/tasks/reload").status_code == 204


def test_a_damaged_artifact_can_be_replaced(admin, files, folder):
    (folder / "sst2" / VECTORS_FILE).write_bytes(b"")
    admin.post("/v1/tasks/reload")
    error_of(classify(admin, "sst2"), 404)
    assert put(admin, "sst2", files()).status_code == 200
    assert classify(admin, "sst2").status_code == 200


def test_a_task_is_replaced_in_the_sub_folder_that_serves_it(admin, files, folder, registry):
    (folder / "sst2").rename(folder / "sentiment-v3")
    response = put(admin, "sst2", files(seed=1))
    assert response.status_code == 200
    assert [entry.name for entry in folder.iterdir()] == ["sentiment-v3"]
    assert registry.get("sst2").digest == response.json()["digest"]
    assert registry.refused == {}


def test_a_sub_folder_that_serves_another_task_is_409(admin, files, folder):
    (folder / "sst2").rename(folder / "trec")
    before = state(folder)
    assert error_of(put(admin, "trec", files("trec")), 409)["message"] == (
        "the sub-folder trec serves task 'sst2', so task 'trec' cannot be put there; upload it "
        "under another name, or delete that task first"
    )
    assert state(folder) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_task_is_never_replaced(admin, files, folder, kind):
    if kind == "folder":
        (folder / "trec").mkdir()
        (folder / "trec" / "precious").write_text("data")
    else:
        (folder / "trec").write_text("data")
    before = state(folder)
    error = error_of(put(admin, "trec", files("trec")), 409)
    assert error["message"].startswith("the tasks directory holds something named trec that is no")
    error_of(admin.delete("/v1/tasks/trec"), 404)
    assert state(folder) == before


def test_uploads_of_one_name_at_once_leave_one_of_them_whole(admin, files, registry, folder):
    forms = [files("busy", seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(len(forms)) as pool:
        responses = list(pool.map(lambda form: put(admin, "busy", form), forms))
    assert sorted(response.status_code for response in responses) == [200] * 7 + [201]
    digests = {response.json()["digest"] for response in responses}
    assert len(digests) == len(forms)
    assert registry.get("busy").digest == load_artifact(folder / "busy").digest
    assert registry.get("busy").digest in digests


# -- names


@pytest.mark.parametrize(
    "name",
    ["%2e%2e", "%2e", ".hidden", "%2Ehidden", "-x", "a%20b", "sst2%0A", "a%00", "%C3%A9", "x" * 129]
    + ["..%5Cx", "~", "%25"],
)  # fmt: skip
@pytest.mark.parametrize(("method", "status"), [("PUT", 422), ("DELETE", 404)])
def test_a_name_that_no_task_can_have_is_422_to_put_and_404_to_delete(
    admin, files, folder, method, status, name
):
    """A refused artifact may be listed under any name, so DELETE looks there instead."""
    before = state(folder.parent)
    url = admin.base_url.copy_with(raw_path=f"/v1/tasks/{name}".encode())
    form = files("x") if method == "PUT" else None
    message = error_of(admin.request(method, url, files=form), status)["message"]
    assert ("name: String should match pattern" in message) == (method == "PUT")
    assert state(folder.parent).items() >= before.items()
    assert state(folder).keys() == {f"sst2/{TASK_FILE}", f"sst2/{VECTORS_FILE}"}


@pytest.mark.parametrize(
    "name", ["..%2F..", "..%2Fx", "%2e%2e%2fx", "sst2%2F..", "%2Fetc", "../x", "sst2/x", ""]
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_name_with_a_slash_is_no_route(admin, files, folder, method, name):
    before = state(folder.parent)
    url = admin.base_url.copy_with(raw_path=f"/v1/tasks/{name}".encode())
    form = files("x") if method == "PUT" else None
    assert admin.request(method, url, files=form, follow_redirects=True).status_code in (404, 405)
    assert state(folder.parent).items() >= before.items()
    assert state(folder).keys() == {f"sst2/{TASK_FILE}", f"sst2/{VECTORS_FILE}"}


# -- artifacts that could not serve


def narrow_vectors(made):
    """Of another shape than task.json says."""
    vector, _ = make_vectors(make_spec(hidden_size=HIDDEN // 2))
    edit_vectors(made, context_vector=vector)


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
    "schema": (lambda made: edit_task(made, schema_version=2), "schema version 2, this release"),
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


# -- what is said elsewhere


def test_the_key_is_in_no_log(admin, files, logged, capfd):
    logged.set_level("DEBUG")
    put(admin, "sst2", files(seed=1))
    put(admin, "sst2", {})
    admin.post("/v1/tasks/reload", headers={"Authorization": f"Bearer {KEY}x"})
    assert "Admin: task 'sst2' replaced" in logged.text
    output = capfd.readouterr()
    assert KEY not in logged.text + output.out + output.err


def test_the_server_holds_no_copy_of_the_key(registry, tokenizer, monkeypatch):
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, KEY)
    key = application(registry, tokenizer, FakeEngine()).state.ifedicl_admin_key
    assert KEY not in json.dumps(vars(key), default=repr)


def test_a_template_is_text_and_runs_nothing(admin, files):
    template = "{{7*7}} ${x} {text}\nLabel:"
    form = files("trec", prompt=PromptTemplate(template=template))
    assert put(admin, "trec", form).json()["template"] == template
    assert classify(admin, "trec").status_code == 200
