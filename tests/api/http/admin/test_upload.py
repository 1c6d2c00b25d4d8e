"""Uploads that serve."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ifedicl_serve.contract.artifact import (
    TASK_FILE,
    VECTORS_FILE,
    load_artifact,
)
from ifedicl_serve.contract.signing import SIGNATURE_BYTES, SIGNATURE_FILE, read_signature
from tests.api.http.admin.conftest import classify, put, state
from tests.api.http.test_errors import error_of

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


@pytest.mark.parametrize("rung", ["channels+head", "coefficients+bias", "channels"])
def test_a_task_of_any_rung_is_uploaded(admin, files, folder, rung):
    response = put(admin, "trec", files("trec", rung=rung, extent="tail"))
    assert response.status_code == 201
    assert (response.json()["rung"], response.json()["extent"]) == (rung, "tail")
    assert load_artifact(folder / "trec").spec.rung == rung


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
