"""Tasks of releases that did not see all of a tokenizer: refused, and renewed."""

import json
from pathlib import Path

import pytest

from calibration.command.artifacts import renew
from ifedicl_serve.checkpoint.files import digest_of
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import ArtifactError
from tests.ifedicl_serve.checkpoints import save_tokenizer, save_weights
from tests.ifedicl_serve.factory import edit_task, make_artifact


@pytest.fixture
def older(checkpoint, tmp_path):
    """A model, and a task of it as an older release wrote it."""
    model = checkpoint(weights="model.safetensors")
    file = json.loads((Path(model) / "tokenizer.json").read_text())
    seen = ModelIdentity.of(model).model_copy(update={"tokenizer_digest": digest_of(file)})
    make_artifact(tmp_path / "tasks" / "sst2", model=seen)
    edit_task(tmp_path / "tasks" / "sst2", model=seen.model_dump(exclude={"version"}))
    return model, tmp_path / "tasks" / "sst2"


def test_a_task_of_an_older_release_is_refused_with_the_command_that_renews_it(older):
    model, task = older
    with pytest.raises(ArtifactError) as error:
        load_artifact(task, ModelIdentity.of(model))
    assert str(error.value) == (
        f"{task}: an older release wrote which model it was calibrated on, and did not see all "
        f"that decides a text's tokens; if that was 'base', renew it: ifedicl renew --model MODEL "
        f"{task}"
    )


def test_renewed_it_is_the_same_task_and_its_report_stays(older):
    model, task = older
    before = load_artifact(task)
    (task / "report").mkdir()
    (task / "task.json.sig").write_bytes(b"of what was there")
    for _ in range(2):  # a second time changes nothing
        assert renew(["--model", model, str(task)]) == 0
        after = load_artifact(task, ModelIdentity.of(model))
        assert after.spec.model_copy(update={"model": before.spec.model}) == before.spec
        assert {name: t.tolist() for name, t in after.tensors.items()} == {
            name: t.tolist() for name, t in before.tensors.items()
        }
        assert sorted(path.name for path in task.iterdir()) == [
            "report",
            "task.json",
            "vectors.safetensors",
        ]


def test_a_task_of_another_model_is_not_renewed(older, capsys):
    model, task = older
    before = (task / "task.json").read_bytes()
    save_weights(Path(model) / "model.safetensors", norm=[9.0, 9.0])
    assert renew(["--model", model, str(task)]) == 1
    assert "calibrated on another model (weights digest" in capsys.readouterr().err
    assert (task / "task.json").read_bytes() == before


def test_the_tokenizer_of_older_releases_is_compared_too(older, capsys):
    model, task = older
    save_tokenizer(Path(model), {"[UNK]": 0, "</s>": 1})
    assert renew(["--model", model, str(task)]) == 1
    assert "calibrated on another model (tokenizer digest" in capsys.readouterr().err
