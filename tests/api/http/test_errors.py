"""The error table: each status, OpenAI's shape, and a message that says what to do."""

import json

import pytest

from ifedicl_serve.schema import MAX_BATCH
from tests.api.conftest import MAX_MODEL_LEN
from tests.ifedicl_serve.factory import make_artifact


def error_of(response, status):
    """The message of an error in OpenAI's shape with that status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert error["type"].endswith("Error")
    return error


def refused(client, status, **body):
    return error_of(client.post("/v1/classify", json=body), status)


# -- 404


@pytest.mark.parametrize("field", ["task", "model"])
def test_an_unknown_task_is_404_and_names_those_loaded(client, field):
    error = refused(client, 404, **{field: "agnews", "input": "text"})
    assert error == {
        "message": "task 'agnews' is not loaded (loaded: 'fatal', 'sst2', 'topics'); put its "
        "artifact folder under the tasks directory",
        "type": "NotFoundError",
        "param": None,
        "code": 404,
    }


def test_a_refused_task_is_404_with_its_reason(client, registry):
    message = refused(client, 404, task="damaged", input="text")["message"]
    assert f"its artifact was refused: {registry.refused['damaged']};" in message


def test_an_unknown_task_card_is_404(client):
    error = error_of(client.get("/v1/tasks/agnews"), 404)
    assert error["message"].startswith("task 'agnews' is not loaded (loaded: 'fatal', ")


# -- 422


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "the text is empty, expected something to classify"),
        (" \n\t", "the text is empty, expected something to classify"),
        (["fine", ""], "text 1 is empty, expected something to classify"),
        ([], f"0 texts, expected 1 to {MAX_BATCH}"),
        (["x"] * (MAX_BATCH + 1), f"{MAX_BATCH + 1} texts, expected 1 to {MAX_BATCH}"),
        (7, "the text is a int, expected a string or a list of strings"),
        (None, "the text is a NoneType, expected a string or a list of strings"),
        ({"text": "x"}, "the text is a dict, expected a string or a list of strings"),
        (["fine", 7], "text 1 is a int, expected a string or a list of strings"),
        ([["nested"]], "text 0 is a list, expected a string or a list of strings"),
    ],
    ids="empty blank empty-in-list no-texts too-many int null dict int-in-list nested".split(),
)
def test_an_input_that_is_no_text_is_422(client, value, message):
    error = refused(client, 422, task="sst2", input=value)
    assert error["message"] == f"input: Value error, {message}"
    assert error["param"] == "input"


def test_as_many_texts_as_allowed_are_taken(client):
    response = client.post("/v1/classify", json={"task": "sst2", "input": ["x"] * MAX_BATCH})
    assert len(response.json()["data"]) == MAX_BATCH


def test_an_unknown_field_is_422(client):
    error = refused(client, 422, task="sst2", input="text", temperature=0.7)
    assert error["message"] == "temperature: Extra inputs are not permitted"
    assert error["param"] == "temperature"


@pytest.mark.parametrize(
    ("field", "value"), [("top_k", 0), ("top_k", -1), ("top_k", "all"), ("truncate", "perhaps")]
)
def test_an_option_out_of_range_is_422(client, field, value):
    error = refused(client, 422, task="sst2", input="text", **{field: value})
    assert error["message"].startswith(f"{field}: Input should be ")
    assert error["param"] == field


@pytest.mark.parametrize("task", [7, ["sst2"]])
def test_a_task_that_is_no_string_is_422(client, task):
    assert "valid string" in refused(client, 422, task=task, input="text")["message"]


def test_every_missing_field_is_named(client):
    assert refused(client, 422)["message"] == (
        "tasks: Value error, neither `task` nor `tasks` is given, expected one of them; input: "
        "Field required"
    )


@pytest.mark.parametrize("body", ["[]", "null", '"text"', ""], ids=["list", "null", "text", "none"])
def test_a_body_that_is_no_object_is_422(client, body):
    response = client.post(
        "/v1/classify", content=body, headers={"content-type": "application/json"}
    )
    assert error_of(response, 422)["message"].startswith("body: ")


@pytest.mark.parametrize(
    ("value", "where"), [('"\\ud800"', "the text"), ('["a", "b\\udfffc"]', "text 1")]
)
def test_half_of_a_surrogate_pair_is_422(client, value, where):
    """JSON can hold one; a tokenizer cannot."""
    response = client.post(
        "/v1/classify",
        content=f'{{"task": "sst2", "input": {value}}}',
        headers={"content-type": "application/json"},
    )
    message = error_of(response, 422)["message"]
    assert message.endswith(f"{where} holds half of a surrogate pair, expected Unicode text")


@pytest.mark.parametrize("name", ["sst2", "topics"])
def test_a_text_longer_than_the_context_is_422_with_both_lengths(client, registry, tokenizer, name):
    task = registry.get(name)
    tokens = len(tokenizer(str(task.spec.prompt.render(" good" * 100))).input_ids)
    limit = MAX_MODEL_LEN - max(len(node.path) for node in task.trie.nodes)
    error = refused(client, 422, task=name, input=["fine", " good" * 100])
    assert error["message"] == (
        f"the prompt for this text has {tokens} tokens, but its task takes at most {limit} on this "
        'model; shorten the text or send "truncate": true (--truncate of `ifedicl classify`)'
    )
    assert error["type"].startswith("Unprocessable")


def test_no_text_reaches_the_engine_if_one_is_too_long(client, engine):
    engine.prompts.clear()
    refused(client, 422, task="sst2", input=["fine", " good" * 100])
    assert engine.prompts == []


# -- 400


@pytest.mark.parametrize(
    "body",
    [b"{", b"not json", b'{"task": "sst2",}'],
    ids=["cut", "words", "comma"],
)
def test_a_body_that_is_not_json_is_400(client, body):
    response = client.post(
        "/v1/classify", content=body, headers={"content-type": "application/json"}
    )
    assert error_of(response, 400) == {
        "message": "the request body is not valid JSON",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }


@pytest.mark.parametrize(
    "body",
    [b"\xff\xfe\xfd", b"[" * 100_000, b"1" * 5000],
    ids=["not utf-8", "too deep", "too long a number"],
)
def test_a_body_that_cannot_be_decoded_is_400(client, body):
    """FastAPI raises another error for these than for JSON with a mistake in it."""
    response = client.post(
        "/v1/classify", content=body, headers={"content-type": "application/json"}
    )
    assert error_of(response, 400)["message"] == "There was an error parsing the body"


# -- 503


@pytest.fixture
def fatal_unavailable(engine, registry):
    engine.unavailable.add(registry.get("fatal").digest)
    yield registry.get("fatal").digest
    engine.unavailable.clear()


def test_a_task_the_engine_cannot_load_is_503(client, fatal_unavailable):
    assert refused(client, 503, task="fatal", input=["one", "two"]) == {
        "message": "task 'fatal' could not be loaded by the engine: its artifact "
        f"{fatal_unavailable[:16]} is gone, replaced or damaged, or overflows the model's dtype; "
        "send the request again, or see the server's log and restore the artifact (or touch its "
        "task.json)",
        "type": "ServiceUnavailableError",
        "param": None,
        "code": 503,
    }


def test_other_tasks_work_while_one_is_unavailable(client, fatal_unavailable):
    for name in ("sst2", "topics"):
        response = client.post("/v1/classify", json={"task": name, "input": "fine"})
        assert response.status_code == 200


def test_a_task_that_returns_works_again(client, engine, registry):
    body = {"task": "fatal", "input": "fine"}
    before = client.post("/v1/classify", json=body).json()["data"]
    engine.unavailable.add(registry.get("fatal").digest)
    error_of(client.post("/v1/classify", json=body), 503)
    engine.unavailable.clear()
    assert client.post("/v1/classify", json=body).json()["data"] == before


def test_a_task_that_was_replaced_meanwhile_is_answered_by_its_new_version(
    client, engine, registry
):
    """The engine no longer finds the old one; nobody has told this process of the new one yet."""
    old = registry.get("fatal").digest
    engine.unavailable.add(old)
    new = make_artifact(registry.folder / "fatal", name="fatal", seed=2).digest
    answer = client.post("/v1/classify", json={"task": "fatal", "input": "fine"})
    assert (answer.status_code, answer.json()["task_digest"]) == (200, new)
    assert new != old
    engine.unavailable.clear()


# -- no error says more than it should


@pytest.mark.parametrize(
    "body",
    [
        {"task": "agnews", "input": "secret"},
        {"task": "damaged", "input": "secret"},
        {"task": "sst2", "input": ["secret", 7]},
        {"task": "sst2", "input": "secret " * 100},
        {"task": "sst2", "input": "secret", "secret": "secret"},
    ],
)
def test_errors_hold_neither_the_text_nor_a_server_path(client, registry, body):
    text = client.post("/v1/classify", json=body).text
    assert str(registry.folder) not in text
    assert "secret" not in json.loads(text)["error"]["message"].replace("secret: Extra", "")
