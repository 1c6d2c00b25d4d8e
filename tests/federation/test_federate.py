"""The coordinator against clients that behave: equal, killed, resumed."""

import dataclasses
from pathlib import Path

import pytest
import torch
from flwr.app import RecordDict

from calibration.data.examples import Example, split_held_out
from calibration.data.rows import Rows
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import tensor_of
from calibration.federation.wire.tensors import Wire
from calibration.model.hooked import HookedModel
from calibration.run.local import Job
from calibration.task import TaskDefinition
from ifedicl_serve.contract.prompt import PromptTemplate, Turns
from ifedicl_serve.errors import DataError
from tests.federation.conftest import LoopGrid
from tests.federation.running import Killed, KilledIn, asking, held, kinds, run, run_here

PLAIN = PromptTemplate.of("Text: {text}\nLabel:")
CHAT = PromptTemplate(
    head="<|endoftext|>system\nShort.\n<|endoftext|>user\n",
    tail="\n<|endoftext|>assistant\n",
    label_prefix="",
    separator="\n<|endoftext|>",
    turns=Turns(
        first="<|endoftext|>user\n",
        later="user\n",
        asked="user\n",
        tail="\n<|endoftext|>assistant\n",
    ),
)

# -- equal to a calibration in one process


@pytest.mark.parametrize(
    ("fit", "readout", "extent", "prompt"),
    [
        ("coefficients", "none", "all", CHAT),
        ("channels", "head", "tail", PLAIN),
        ("head", "auto", "all", PLAIN),
        ("auto", "auto", "tail", PLAIN),
    ],
)
def test_equals_a_calibration_in_one_process(
    grid: LoopGrid,
    invitation: Invitation,
    llama: HookedModel,
    task: TaskDefinition,
    examples: list[Example],
    tmp_path: Path,
    fit,
    readout,
    extent,
    prompt: PromptTemplate,
) -> None:
    task = dataclasses.replace(task, prompt=prompt)
    rungs = {"fit": fit, "readout": readout, "extent": extent, "least_held_out": 1}
    asked = asking(invitation, **rungs).model_copy(update={"prompt": prompt})
    federated = run(grid, asked, tmp_path / "federated")
    parts = [examples[:5], examples[5:9], examples[9:]]
    rows = [Rows(*split_held_out(part, 0.2, asked.settings.seed)) for part in parts]
    job = Job(llama, invitation.model, task, rows, [], asked.settings)
    local = run_here(job, tmp_path / "local")
    assert federated.artifact.spec.rung == local.artifact.spec.rung
    assert held(federated).keys() == held(local).keys()
    for name, tensor in held(local).items():
        assert torch.equal(held(federated)[name], tensor)
    assert federated.done.state.losses == local.done.state.losses
    assert federated.done.measured == local.done.measured
    assert federated.done.trials == local.done.trials
    ours, theirs = (one.artifact.spec.calibration for one in (federated, local))
    assert ours.client_sizes == theirs.client_sizes == (4, 3, 2)
    assert ours.round_losses == theirs.round_losses
    assert ours.wire_bytes == theirs.wire_bytes


@pytest.mark.parametrize("wire", ["fp16", "int8"])
def test_clients_fit_to_what_the_coordinator_keeps(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, wire: Wire
) -> None:
    """Rounding on the way must not leave an artifact that nobody fitted or judged."""
    asked = asking(invitation, fit="channels", readout="none").model_copy(update={"wire": wire})
    outcome = run(grid, asked, tmp_path / "toy")
    state = outcome.done.state
    sent = {name: record for message in grid.sent for name, record in message.content.items()}
    vector = tensor_of(sent["vector"], wire, asked.vector_shape)
    assert torch.equal(vector, outcome.artifact.context_vector)
    told = [record for name, record in sent.items() if name.startswith("channels.")]
    for record, kept in zip(told[1:], state.values["channels"][1:], strict=True):
        assert torch.equal(tensor_of(record, wire, asked.values_shape("channels")), kept)
    assert outcome.artifact.spec.calibration.settings["wire"] == wire
    grid.forget()
    assert run(grid, asked, tmp_path / "again").artifact.digest == outcome.artifact.digest


def test_a_private_federation_fits_channels(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    asked = asking(invitation, fit="channels", epsilon=8.0)
    outcome = run(grid, asked, tmp_path / "toy")
    assert outcome.artifact.spec.rung == "channels"
    assert outcome.done.measured.rows == 0 and outcome.done.state.held_out == []
    assert kinds(grid) == {"query.join", "train.extract", "train.fit"}


# -- killed and resumed


@pytest.mark.parametrize(("fit", "round_index"), [("coefficients", 0), ("channels", 2)])
def test_a_killed_coordinator_ends_with_the_same_artifact(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, fit, round_index: int
) -> None:
    asked = asking(invitation, fit=fit).model_copy(update={"wire": "int8"})
    undisturbed = run(grid, asked, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        run(grid, asked, tmp_path / "toy", progress=KilledIn(round_index))
    grid.forget()
    resumed = run(grid, asked, tmp_path / "toy")
    assert resumed.artifact.digest == undisturbed.artifact.digest
    assert not (tmp_path / ".toy").exists()


def test_a_state_of_another_federation_is_refused(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(grid, invitation, tmp_path / "toy", progress=KilledIn(1))
    with pytest.raises(DataError, match="made by a calibration with other settings"):
        run(grid, asking(invitation, seed=1), tmp_path / "toy")


@pytest.mark.parametrize("kind", ["train.fit", "query.losses", "query.curvatures"])
def test_a_restarted_client_is_told_everything_again(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, kind: str
) -> None:
    asked = asking(invitation, fit="channels", readout="head")
    undisturbed = run(grid, asked, tmp_path / "undisturbed")
    grid.forget()

    def restart(answered: str, content: RecordDict) -> RecordDict:
        if answered == kind:
            grid.nodes[11].forget()
        return content

    grid.nodes[11].tamper = restart
    restarted = run(grid, asked, tmp_path / "toy")
    assert restarted.artifact.digest == undisturbed.artifact.digest
    assert "rejoin" in {reply.content["status"]["status"] for reply in grid.received}
