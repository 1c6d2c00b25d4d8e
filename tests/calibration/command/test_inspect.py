"""What `ifedicl inspect` shows of an artifact."""

from pathlib import Path

import pytest

from calibration.command.artifacts import inspect
from ifedicl_serve.contract.spec import RungRecord
from tests.ifedicl_serve.factory import NOTHING_ADAPTED, make_artifact, make_spec

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
