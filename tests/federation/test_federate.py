"""The coordinator against clients that behave: equal, killed, resumed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.data.examples import Example, split_held_out
from calibration.federation.wire.messages import Invitation
from calibration.model.hooked import HookedModel
from calibration.run.local import Job, calibrate_here
from calibration.run.progress import Progress
from calibration.state import StateStore
from calibration.task import TaskDefinition
from ifedicl_serve.errors import DataError
from tests.federation.conftest import SETTINGS, LoopGrid
from tests.federation.running import run, tensors

# -- equal to a calibration in one process


def test_equals_a_calibration_in_one_process(
    grid: LoopGrid,
    invitation: Invitation,
    llama: HookedModel,
    task: TaskDefinition,
    examples: list[Example],
    tmp_path: Path,
) -> None:
    federated = run(grid, invitation, tmp_path / "federated")
    parts = [examples[:5], examples[5:9], examples[9:]]
    splits = [split_held_out(part, 0.2, SETTINGS.seed) for part in parts]
    held_out = [row for _, rows in splits for row in rows]
    trains = [train for train, _ in splits]
    job = Job(llama, invitation.model, task, trains, held_out, SETTINGS)
    local = calibrate_here(job, tmp_path / "local", StateStore(tmp_path / "s", "x"), Progress())
    for ours, theirs in zip(tensors(federated), tensors(local), strict=True):
        assert torch.equal(ours, theirs)
    assert federated.state.losses == local.state.losses
    record = federated.artifact.spec.calibration
    assert record.client_sizes == local.artifact.spec.calibration.client_sizes == (4, 3, 2)
    assert record.round_losses == local.artifact.spec.calibration.round_losses != ()
    assert record.metrics["held_out"] == len(held_out) == 3
    for name in ("accuracy", "log_loss"):
        assert federated.after[name] == pytest.approx(local.after[name], abs=1e-5)


@pytest.mark.parametrize("wire", ["fp16", "int8"])
def test_clients_fit_to_the_vector_that_the_artifact_holds(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, wire: str
) -> None:
    """Rounding on the way must not leave coefficients that belong to another vector."""
    outcome = run(grid, invitation.model_copy(update={"wire": wire}), tmp_path / "toy")
    (sent,) = {
        message.content["vector"]["values"].numpy().tobytes()
        for message in grid.sent
        if "vector" in message.content
    }
    vector = outcome.artifact.context_vector.numpy()
    if wire == "fp16":
        assert vector.astype(np.float16).tobytes() == sent
    else:
        assert np.abs(vector / np.abs(vector).max(-1, keepdims=True) * 127).max() <= 127.01
    assert outcome.artifact.spec.calibration.settings["wire"] == wire


# -- killed and resumed


class Killed(Exception):
    """Stands for a kill after a round has been saved."""


class KilledIn(Progress):
    def __init__(self, round_index: int) -> None:
        super().__init__()
        self.round_index = round_index

    def fitting(self, client: int, round_index: int):
        if round_index == self.round_index:
            raise Killed
        return super().fitting(client, round_index)


@pytest.mark.parametrize("round_index", [0, 2])
def test_a_killed_coordinator_ends_with_the_same_artifact(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, round_index: int
) -> None:
    undisturbed = run(grid, invitation, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        run(grid, invitation, tmp_path / "toy", progress=KilledIn(round_index))
    for node in grid.nodes.values():
        node.forget()  # a new run on the SuperLink has a new context on every client
    resumed = run(grid, invitation, tmp_path / "toy")
    assert resumed.artifact.digest == undisturbed.artifact.digest
    assert not (tmp_path / ".toy").exists()


def test_a_state_of_another_federation_is_refused(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(grid, invitation, tmp_path / "toy", progress=KilledIn(1))
    other = dataclasses.replace(SETTINGS, seed=1)
    with pytest.raises(DataError, match="made by a calibration with other settings"):
        run(grid, invitation.model_copy(update={"settings": other}), tmp_path / "toy")


def test_a_restarted_client_is_told_everything_again(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    undisturbed = run(grid, invitation, tmp_path / "undisturbed")

    class Restart(Progress):
        def fitting(self, client: int, round_index: int):
            grid.nodes[11].forget()
            return super().fitting(client, round_index)

    for node in grid.nodes.values():
        node.forget()
    restarted = run(grid, invitation, tmp_path / "toy", progress=Restart())
    assert restarted.artifact.digest == undisturbed.artifact.digest
