"""Artifacts of releases before the ladder: read, with equal answers, and checked as ever."""

import hashlib
import json

import pytest
import torch

from ifedicl_serve.contract.artifact import TASK_FILE, load_artifact
from tests.ifedicl_serve.factory import edit_task, make_artifact, refusal


@pytest.fixture
def folder(tmp_path):
    """The factory's task, as the release before wrote it."""
    make_artifact(tmp_path / "sst2")
    path = tmp_path / "sst2" / TASK_FILE
    task = json.loads(path.read_text())
    del task["extent"], task["tensors"], task["calibration"]["rungs"]
    prompt = {"template": "Review: {text}\nSentiment:", "separator": "\n\n"}
    path.write_text(json.dumps(task | {"schema_version": 1, "prompt": prompt}, indent=2))
    return tmp_path / "sst2"


def test_it_is_the_same_task(folder, tmp_path):
    old, new = load_artifact(folder), make_artifact(tmp_path / "new")
    assert old.spec == new.spec
    assert old.spec.rung == "coefficients"
    assert torch.equal(old.injection.scale, new.injection.scale)
    assert torch.equal(old.injection.shift, new.injection.shift)


def test_its_digest_is_that_of_its_file(folder):
    digest = hashlib.sha256((folder / TASK_FILE).read_bytes()).hexdigest()
    assert load_artifact(folder, digest=digest).digest == digest


@pytest.mark.parametrize(
    ("template", "count"), [("Review:", 0), ("{text} and {text}:", 2)], ids=["none", "two"]
)
def test_a_template_without_exactly_one_placeholder_is_refused(folder, template, count):
    edit_task(folder, prompt={"template": template})
    message = refusal(folder)
    assert f"prompt.template: template {template!r} has {count} placeholders" in message
    assert "expected exactly one; write e.g. 'Text: {text}\\nTopic:'" in message


@pytest.mark.parametrize("end", [" ", "\n", "\t"])
def test_a_template_that_ends_in_white_space_is_refused(folder, end):
    edit_task(folder, prompt={"template": "Review: {text}\nSentiment:" + end})
    assert "ends in white space, but the label is appended after ' '" in refusal(folder)


@pytest.mark.parametrize("prompt", [None, 1, [], {}, {"template": 1}, {"head": "", "tail": ""}])
def test_a_prompt_that_is_none_is_refused(folder, prompt):
    edit_task(folder, prompt=prompt)
    assert f"{folder / TASK_FILE}: prompt" in refusal(folder)


@pytest.mark.parametrize("field", [{"extent": "tail"}, {"tensors": []}])
def test_what_it_did_not_have_is_refused(folder, field):
    edit_task(folder, **field)
    assert f"{next(iter(field))} are not of schema 1; write schema 2" in refusal(folder)


def test_other_faults_are_found_as_in_the_present_one(folder):
    edit_task(folder, temperature=0.7)
    assert "temperature: Extra inputs are not permitted" in refusal(folder)
