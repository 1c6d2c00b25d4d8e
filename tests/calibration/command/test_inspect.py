"""What `ifedicl inspect` shows of an artifact."""

from pathlib import Path

import pytest

from calibration.command.artifacts import inspect
from ifedicl_serve.contract.artifact import VECTORS_FILE
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import RungRecord
from tests.ifedicl_serve.factory import (
    MODEL,
    NOTHING_ADAPTED,
    edit_task,
    make_artifact,
    make_spec,
)

TRIED = (
    RungRecord(
        name="zero-shot", numbers=0, log_loss=0.9, excess=0.5, standard_error=0.1, accuracy=0.5
    ),
    RungRecord(
        name="channels+head", numbers=4096, log_loss=0.4, excess=0, standard_error=0, accuracy=0.75
    ),
)


@pytest.fixture
def shown(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Save a task, and what is shown of it on a terminal of 80 columns, line by line, as the words
    between the table's rules."""
    monkeypatch.setenv("COLUMNS", "80")

    def shown(rung: str, **changes: object) -> list[list[str]]:
        make_artifact(tmp_path / "sst2", rung=rung, **changes)
        assert inspect([str(tmp_path / "sst2")]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]

    return shown


def test_rung_extent_and_every_tensor(shown) -> None:
    rows = dict(line for line in shown("channels+head", extent="tail") if len(line) == 2)
    assert (rows["rung"], rows["extent"]) == ("channels+head", "tail")
    assert (rows["layers"], rows["sites"]) == ("2,3", "attn,mlp")
    assert rows["scale"].endswith("(4 x 2 x 8)") and " to " in rows["scale"]
    assert rows["label_rows"].endswith("(2 x 8)")
    assert rows["bias"].endswith("(2)")
    assert rows["sharpness"] == "1.500"
    assert {"shift", "context_vector", "coefficients"} <= rows.keys()


def test_rungs_tried_with_the_chosen_one_marked(shown) -> None:
    record = make_spec().calibration.model_copy(update={"rungs": TRIED})
    lines = shown("channels+head", calibration=record)
    assert ["zero-shot", "0", "0.9000", "0.5000 ± 0.1000", "0.5000"] in lines
    assert ["channels+head *", "4,096", "0.4000", "0.0000 ± 0.0000", "0.7500"] in lines


def test_a_task_of_a_readout_alone(shown) -> None:
    lines = shown("bias", **NOTHING_ADAPTED)
    assert ["rung", "bias"] in lines and ["layers", "none"] in lines and ["sites", "none"] in lines
    assert max(map(len, lines)) == 2  # no table of rungs: none were tried


def test_long_values_are_folded(shown) -> None:
    labels = tuple(f"label {number}" for number in range(300))
    shown("head", labels=labels, **NOTHING_ADAPTED)


# -- a folder of tasks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tasks of one head, and three whose heads differ from it by a blank, a word and more."""
    monkeypatch.setenv("COLUMNS", "200")
    heads = {"topic": "Text: ", "mood": "Text: ", "risk": "text:  ", "hoax": "News: "}
    for name, head in (heads | {"grade": "An essay of a pupil: "}).items():
        prompt = PromptTemplate.of(head + "{text}\nIs:")
        made = {"rung": "channels", "extent": "tail"} if name == "mood" else {"rung": "head"}
        nothing = {} if name == "mood" else NOTHING_ADAPTED
        make_artifact(tmp_path / name, name=name, prompt=prompt, **made, **nothing)
    return tmp_path


def test_of_a_folder_who_shares_a_head_and_who_nearly_does(folder, capsys) -> None:
    assert inspect([str(folder)]) == 0
    told = capsys.readouterr().out.replace("\n", " ")
    assert 'mood, topic: a text behind "Text: " is computed once' in told
    pairs = [('"News: " (hoax)', '"Text: " (mood, topic)'), ('"News: " (hoax)', '"text:  " (risk)')]
    for one, other in [*pairs, ('"Text: " (mood, topic)', '"text:  " (risk)')]:
        assert f"warning: {one} and {other} nearly are one head, and share nothing;" in told
    assert told.count("warning:") == 3
    assert "adapts a text's own tokens" not in told


def test_of_a_folder_who_adapts_the_text_and_shares_it_with_nobody(folder, capsys) -> None:
    make_artifact(folder / "topic", name="topic", prompt=PromptTemplate.of("Text: {text}\nIs:"))
    assert inspect([str(folder)]) == 0
    told = capsys.readouterr().out
    assert "topic: each adapts a text's own tokens" in told
    assert "is computed once" not in told


def test_tasks_of_other_models_share_nothing(folder, capsys) -> None:
    other = MODEL.model_copy(update={"weights_digest": "f" * 64})
    edit_task(folder / "topic", model=other.model_dump())
    assert inspect([str(folder)]) == 0
    told = capsys.readouterr().out
    assert "is computed once" not in told and "(mood, topic)" not in told


def test_a_task_that_would_not_serve_is_named_behind_the_others(folder, capsys) -> None:
    (folder / "hoax" / VECTORS_FILE).write_bytes(b"damaged")
    assert inspect([str(folder)]) == 1
    told = capsys.readouterr()
    assert "mood, topic: a text" in told.out and "News" not in told.out
    assert told.err.startswith(f"error: {folder}/hoax/vectors.safetensors: content does not match")


def test_an_empty_folder_is_no_task(tmp_path, capsys) -> None:
    assert inspect([str(tmp_path)]) == 1
    assert "cannot read task.json" in capsys.readouterr().err
