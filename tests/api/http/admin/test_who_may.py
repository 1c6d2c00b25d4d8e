"""Who may use the admin routes, and what is said of their key."""

import json

import httpx
import pytest

from api.access.admin_key import ADMIN_KEY_VARIABLE
from ifedicl_serve.contract.prompt import PromptTemplate
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
from tests.api.http.admin.conftest import ADMIN, CHANGES, KEY, classify, put, state
from tests.api.http.test_errors import error_of

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
    form = files("trec", prompt=PromptTemplate.of(template))
    assert put(admin, "trec", form).json()["template"] == template
    assert classify(admin, "trec").status_code == 200
