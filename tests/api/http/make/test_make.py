"""A task made from examples serves, and what is said of it is true."""

import numpy as np
import pytest

from ifedicl_serve.contract.artifact import load_artifact
from tests.api.http.make.conftest import (
    WORDS,
    bearer,
    create,
    examples,
    hidden,
    job_of,
    until,
)
from tests.api.http.test_errors import error_of
from tests.ifedicl_serve.factory import make_artifact


def test_a_task_made_while_waiting_serves_at_once(client, folder):
    response = create(client, wait=True)
    assert response.status_code == 201, response.text
    job = response.json()
    assert response.headers["location"] == "/v1/tasks/team-banking"
    assert (job["status"], job["progress"], job["task"]) == ("done", 1, "team-banking")
    card = client.get("/v1/tasks/team-banking").json()
    assert card["digest"] == job["digest"]
    assert card["labels"] == sorted(WORDS)
    assert (card["rung"], card["template"]) == ("head", "Text: {text}\nLabel:")
    assert card["calibration"]["examples"] == 24
    assert [rung["name"] for rung in card["calibration"]["rungs"]] == ["zero-shot", "bias", "head"]
    answered = client.post("/v1/classify", json={"task": "team-banking", "input": "my coins"})
    assert answered.status_code == 200
    assert load_artifact(folder / "team-banking").digest == job["digest"]
    assert hidden(folder) == []


def test_a_job_is_followed_until_its_task_serves(client):
    response = create(client)
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"
    assert response.json()["status"] == "queued"
    job = until(client, response.json()["id"], "done")
    assert client.get("/v1/tasks/team-banking").json()["digest"] == job["digest"]
    assert client.get("/v1/jobs").json()["data"][0] == job


def test_what_is_said_of_a_task_is_what_a_person_needs(client):
    rows = examples(each=24)
    rows[0]["label"] = "loan"
    report = create(client, examples=rows, fit="head", wait=True).json()["report"]
    assert (report["rung"], report["examples"]) == ("head", 72)
    assert [one["examples"] for one in report["labels"]] == [23, 24, 25]
    assert report["guessing"]["accuracy"] == pytest.approx(25 / 72, abs=1e-6)
    shares = np.array([23, 24, 25]) / 72
    assert report["guessing"]["log_loss"] == pytest.approx(
        -(shares * np.log(shares)).sum(), abs=1e-6
    )
    assert report["adapted"]["log_loss"] < report["zero_shot"]["log_loss"]
    right = sum(one["recall"] * one["examples"] for one in report["labels"])
    assert report["adapted"]["accuracy"] == pytest.approx(right / 72, abs=1e-5)
    wrong = sum(pair["examples"] for pair in report["confused"])
    assert wrong == pytest.approx(72 - right, abs=1e-3)
    assert rows[0]["text"] not in str(report)
    assert report["warnings"] == []


def test_few_examples_of_a_label_are_warned_of(client):
    warnings = create(client, examples=examples(each=3), wait=True).json()["report"]["warnings"]
    assert warnings[0].startswith("label 'card' has 3 examples, so what is said of it is vague")


def test_the_rung_that_was_asked_for_is_fitted(client):
    for fit in ("bias", "head"):
        assert create(client, fit=fit, replace=True, wait=True).json()["report"]["rung"] == fit
        card = client.get("/v1/tasks/team-banking").json()
        assert card["rung"] == fit


def test_labels_have_the_order_and_the_words_that_were_sent(client):
    labels = {"loan": "money lent", "cash": "cash", "card": "a card"}
    create(client, labels=labels, template="Q: {text}\nA:", wait=True)
    card = client.get("/v1/tasks/team-banking").json()
    assert dict(zip(card["labels"], card["verbalizations"], strict=True)) == labels
    assert card["labels"] == list(labels)
    assert card["template"] == "Q: {text}\nA:"


def test_a_task_like_another_has_its_prompt_and_its_labels_words(client):
    rows = [{"text": f"fine {n}", "label": ("positive", "new")[n % 2]} for n in range(8)]
    create(client, examples=rows, like="sst2", wait=True)
    card, other = (client.get(f"/v1/tasks/{name}").json() for name in ("team-banking", "sst2"))
    assert card["prompt"] == other["prompt"]
    assert card["labels"] == ["positive", "new"]


def test_a_task_is_replaced_only_if_that_is_said(client, folder):
    first = create(client, wait=True).json()["digest"]
    message = error_of(create(client, fit="bias", wait=True), 409)["message"]
    assert message.startswith("there is a task 'team-banking', and it was left as it is; send")
    assert client.get("/v1/tasks/team-banking").json()["digest"] == first
    second = create(client, fit="bias", replace=True, wait=True).json()["digest"]
    assert client.get("/v1/tasks/team-banking").json()["digest"] == second != first
    assert hidden(folder) == []


def test_a_task_put_there_while_a_job_runs_is_left_as_it_is(client, app, folder, monkeypatch):
    """By another process, after the last look at the place."""
    editor = app.state.ifedicl_jobs.editor
    checked = editor._checked

    def put_meanwhile(name, staged):
        make_artifact(folder / name, name=name)
        return checked(name, staged)

    monkeypatch.setattr(editor, "_checked", put_meanwhile)
    message = error_of(create(client, wait=True), 409)["message"]
    assert message.startswith("there is a task 'team-banking', and it was left as it is; send")
    assert load_artifact(folder / "team-banking").spec.calibration.rounds == 5
    assert hidden(folder) == []


def test_repeated_texts_are_warned_of(client):
    rows = examples()
    rows += [rows[0], {"text": rows[1]["text"], "label": "card"}]
    warnings = create(client, examples=rows, wait=True).json()["report"]["warnings"]
    assert (
        "1 texts have several labels, such as those of examples 1 and 25; correct them" in warnings
    )
    assert any("more than once, such as those of examples 0 and 24" in sign for sign in warnings)


def test_the_engine_is_asked_of_each_example_once_and_hidden_states_reach_nobody(client, engine):
    job = create(client, wait=True).json()
    assert len(engine.prompts) == 24
    for path in ("/v1/jobs", f"/v1/jobs/{job['id']}", "/v1/tasks/team-banking/fitted"):
        assert "hidden" not in client.get(path).text


def test_truncate_cuts_what_is_too_long(client):
    rows = examples()
    rows[3] = {"text": "card " * 100, "label": "card"}
    message = error_of(create(client, examples=rows), 422)["message"]
    assert message.startswith("example 3: the prompt for this text has")
    assert create(client, examples=rows, truncate=True, wait=True).status_code == 201


# -- what is refused


def one_less(rows, **changes):
    return rows[:5] + [rows[5] | changes] + rows[6:]


REFUSED = [
    ({"examples": []}, "examples: Value error, 0 examples, expected 2 to 10000"),
    ({"examples": "text"}, "examples: Value error, a str, expected a list of examples"),
    ({"examples": [{"text": "a"}] * 3}, 'example 0 is no {"text": ..., "label": ...}'),
    ({"examples": one_less(examples(), text="  ")}, "example 5: its text is empty"),
    ({"examples": one_less(examples(), text=7)}, "example 5: text and label must both be strings"),
    ({"examples": one_less(examples(), label=" ")}, "example 5: its label is no name"),
    ({"examples": one_less(examples(), text="\ud800")}, "example 5: its text holds half of a"),
    ({"examples": one_less(examples(), text="a" * ((1 << 20) + 1))}, "its text has 1048577 char"),
    ({"examples": one_less(examples(), text="card " * 99)}, "example 5: the prompt for this text"),
    ({"examples": examples(labels=["card"])}, "1 label, expected 2 to 256"),
    ({"examples": one_less(examples(), label="new")}, "label 'new' has 1 example, expected at lea"),
    ({"labels": ["card", "cash", "loan", "new"]}, "label 'new' has no examples, expected at least"),
    ({"labels": ["card", "cash"]}, "labels: an example is labelled 'loan', which is not among"),
    ({"labels": ["card", "cash", "loan", "card"]}, "labels: label 'card' is there twice"),
    ({"labels": {"card": "a", "cash": "a", "loan": "b"}}, "labels: the model would read 'a' for"),
    ({"labels": {"card": "", "cash": "a", "loan": "b"}}, "the model would read nothing for"),
    ({"template": "no place"}, "template 'no place' has 0 placeholders {text}, expected exactly"),
    ({"template": "{text}", "like": "sst2"}, "template and like contradict each other"),
    ({"chat": {}}, "this model's tokenizer has no chat template"),
    ({"name": "../up"}, "name: String should match pattern"),
    ({"fit": "channels"}, "fit: Input should be 'auto', 'head' or 'bias'"),
    ({"hidden_size": 8}, "hidden_size: Extra inputs are not permitted"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_no_task_can_be_made_of_is_refused_and_leaves_nothing(
    client, engine, folder, changes, message
):
    error = error_of(create(client, **changes), 422)
    assert message in error["message"]
    assert engine.prompts == []
    assert client.get("/v1/jobs").json()["data"] == []
    assert hidden(folder) == []


def test_a_task_like_one_that_is_not_there_is_not_found(client):
    assert "task 'nobody' is not loaded" in error_of(create(client, like="nobody"), 404)["message"]


def test_a_body_that_is_no_json_is_said_so(client):
    error_of(
        client.post("/v1/tasks", content=b"text,label", headers={"Content-Type": "text/csv"}), 415
    )
    error_of(
        client.post("/v1/tasks", content=b"{", headers={"Content-Type": "application/json"}), 400
    )


def test_the_name_of_a_model_is_taken(client):
    message = error_of(create(client, "name-of-the-base-model"), 409)["message"]
    assert message == "'name-of-the-base-model' is a model of this server; choose another name"


# -- who may


def test_a_key_makes_tasks_of_its_names_and_uses_them(client):
    assert create(client, "team-a", key="of-a-team", wait=True).status_code == 201
    body = {"task": "team-a", "input": "coins"}
    assert client.post("/v1/classify", json=body, headers=bearer("of-a-team")).status_code == 200
    message = error_of(create(client, "other", key="of-a-team"), 403)["message"]
    assert message == "this key may make no task 'other'; it may make: team-*"


def test_a_name_whose_place_is_taken_tells_nothing_of_other_tasks(client, folder, caplog):
    (folder / "sst2").rename(folder / "team-x")
    message = error_of(create(client, "team-x", key="of-a-team"), 409)["message"]
    assert message == "the name 'team-x' cannot be used; choose another"
    assert "the sub-folder team-x serves task 'sst2'" in caplog.text


@pytest.mark.parametrize(("key", "status"), [("of-a-user", 403), ("stranger", 401)])
def test_a_key_that_may_make_none_is_refused_before_anything_is_read(client, engine, key, status):
    error_of(create(client, key=key), status)
    error_of(client.get("/v1/jobs", headers=bearer(key)), status)
    error_of(client.delete("/v1/jobs/" + "0" * 32, headers=bearer(key)), status)
    assert engine.prompts == []


def test_a_key_sees_the_jobs_of_its_names_alone(client):
    team = create(client, "team-a", key="of-a-team").json()["id"]
    others = create(client, "other").json()["id"]
    until(client, others, "done")
    listed = client.get("/v1/jobs", headers=bearer("of-a-team")).json()["data"]
    assert [job["id"] for job in listed] == [team]
    assert job_of(client, team, "of-a-team")["task"] == "team-a"
    hidden_from = client.get(f"/v1/jobs/{others}", headers=bearer("of-a-team"))
    nobodys = client.get("/v1/jobs/" + "0" * 32, headers=bearer("of-a-team"))
    told = error_of(hidden_from, 404)["message"]
    assert told.replace(others, "0" * 32) == error_of(nobodys, 404)["message"]
    error_of(client.delete(f"/v1/jobs/{others}", headers=bearer("of-a-team")), 404)


@pytest.mark.parametrize("job_id", ["0" * 32, "..", "%2e%2e%2fsst2", "x", "0" * 31])
def test_a_job_that_is_none_is_not_found(client, job_id):
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404
