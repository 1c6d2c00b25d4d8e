"""A coordinator with a config and a tokenizer but no weights: clients say which theirs are."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from calibration.federation.coordinator.fleet import Terms
from calibration.federation.coordinator.submit import prepare_invitation
from calibration.federation.wire.invitation import Invitation
from calibration.task import TaskDefinition
from ifedicl_serve.checkpoint.tokenizer import load_tokenizer
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import QuorumError
from tests.federation.conftest import SETTINGS, LoopGrid
from tests.federation.running import run


@pytest.fixture
def weightless(llama_folder: Path, task: TaskDefinition, tmp_path: Path) -> Invitation:
    """As `ifedicl federate` makes it of a folder without weights."""
    folder = tmp_path / llama_folder.name
    shutil.copytree(llama_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    invitation = prepare_invitation(
        str(folder), load_tokenizer(str(folder)), task, "fp32", lambda num_layers: SETTINGS
    )
    assert invitation.model.weights_digest == ""
    return invitation


@pytest.fixture
def another(llama_folder: Path, tmp_path: Path) -> Path:
    """A fine-tune: the same but for its weights."""
    folder = shutil.copytree(llama_folder, tmp_path / "another")
    tensors = load_file(folder / "model.safetensors")
    tuned = {name: tensor * 1.5 for name, tensor in tensors.items()}
    save_file(tuned, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_artifact_is_that_of_a_coordinator_with_weights(
    grid: LoopGrid,
    weightless: Invitation,
    invitation: Invitation,
    llama_folder: Path,
    tmp_path: Path,
) -> None:
    run(grid, weightless, tmp_path / "toy")
    made = load_artifact(tmp_path / "toy", ModelIdentity.of(str(llama_folder)))
    run(LoopGrid(grid.owners), invitation, tmp_path / "of_weights" / "toy")
    assert made.digest == load_artifact(tmp_path / "of_weights" / "toy").digest


def test_a_client_of_other_weights_than_most_is_left_out(
    grid: LoopGrid, weightless: Invitation, another: Path, tmp_path: Path, caplog
) -> None:
    grid.owners[10] = dataclasses.replace(grid.owners[10], model=str(another))
    with caplog.at_level("ERROR", logger="flwr"):
        outcome = run(grid, weightless, tmp_path / "toy")
    assert outcome.done.state.federation["clients"] == [1, 2]
    assert "client 0 runs other weights (digest " in caplog.text
    assert "start it with their checkpoint; it is left out" in caplog.text


def test_a_run_goes_on_with_the_weights_it_began_with(
    grid: LoopGrid, weightless: Invitation, another: Path, tmp_path: Path
) -> None:
    """Though most of the clients that come back run others."""
    grid.nodes[10].tamper = lambda kind, content: None if kind == "train.fit" else content
    terms = Terms(clients=3, quorum=3, wait=0.5, timeout=0.1)
    with pytest.raises(QuorumError, match="2 clients answered train.fit, 3 are needed"):
        run(grid, weightless, tmp_path / "toy", terms)
    owners = {
        node: dataclasses.replace(owner, model=str(another)) for node, owner in grid.owners.items()
    }
    back = LoopGrid(owners | {10: grid.owners[10]})
    with pytest.raises(QuorumError, match="1 clients accepted the invitation, 3 are needed"):
        run(back, weightless, tmp_path / "toy", terms)
