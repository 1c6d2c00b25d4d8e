"""A federation that begins at the nearest task of a folder, which the coordinator alone has."""

import dataclasses
from pathlib import Path

import pytest
import torch

from calibration.command.federate import federate
from calibration.data.examples import Example, split_held_out
from calibration.data.rows import Rows
from calibration.federation.wire.invitation import Invitation
from calibration.model.hooked import HookedModel
from calibration.result.report import write_report
from calibration.run.local import Job
from calibration.stages.start import Shelf
from calibration.task import TaskDefinition
from ifedicl_serve.errors import DataError
from tests.federation.conftest import SETTINGS, LoopGrid
from tests.federation.running import Killed, KilledIn, asking, held, run, run_here


@pytest.fixture
def job(
    invitation: Invitation, llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> Job:
    """The grid's clients in one process."""
    parts = [examples[:5], examples[5:9], examples[9:]]
    rows = [Rows(*split_held_out(part, 0.2, SETTINGS.seed)) for part in parts]
    return Job(llama, invitation.model, task, rows, [], SETTINGS)


@pytest.fixture
def shelf(job: Job, tmp_path: Path) -> Shelf:
    """A task of the same rows, fitted for longer."""
    settings = dataclasses.replace(SETTINGS, rounds=6)
    task = dataclasses.replace(job.task, name="before")
    run_here(dataclasses.replace(job, task=task, settings=settings), tmp_path / "shelf" / "before")
    return Shelf.read(tmp_path / "shelf", job.identity)


def worse(shelf: Shelf) -> Shelf:
    """Its task, driven off."""
    (task,) = shelf.tasks
    values = task.tensors["coefficients"] + torch.tensor([0.0, 1.0])  # to beta
    return Shelf([dataclasses.replace(task, tensors={**task.tensors, "coefficients": values})])


@pytest.mark.parametrize("fit", ["coefficients", "channels"])
@pytest.mark.parametrize("taken", [True, False])
def test_it_begins_where_a_calibration_in_one_process_does(
    grid: LoopGrid, invitation: Invitation, job: Job, shelf: Shelf, tmp_path: Path, fit, taken: bool
) -> None:
    shelf = shelf if taken else worse(shelf)
    asked = asking(invitation, fit=fit)
    federated = run(grid, asked, tmp_path / "federated", shelf=shelf)
    local = run_here(
        dataclasses.replace(job, settings=asked.settings, shelf=shelf), tmp_path / "local"
    )
    assert federated.done.state.starts == local.done.state.starts
    assert federated.done.state.starts[fit]["taken"] == taken
    assert federated.done.state.held_out == local.done.state.held_out
    for name, tensor in held(local).items():
        assert torch.equal(held(federated)[name], tensor)
    for outcome in (federated, local):
        began_at = outcome.artifact.spec.calibration.settings.get(f"{fit}_from")
        assert began_at == ("before" if taken else None)
    report = write_report(federated, {}, tmp_path / "report").read_text()
    assert f"| {fit} | before |" in report
    assert f"| {taken} |" in report


def test_clients_fit_from_what_the_coordinator_keeps(
    grid: LoopGrid, invitation: Invitation, shelf: Shelf, tmp_path: Path
) -> None:
    """Killed after a round it goes on to the same artifact, rounded start and all."""
    asked = asking(invitation, fit="channels").model_copy(update={"wire": "int8"})
    undisturbed = run(grid, asked, tmp_path / "undisturbed", shelf=shelf)
    with pytest.raises(Killed):
        run(grid, asked, tmp_path / "toy", progress=KilledIn(1), shelf=shelf)
    grid.forget()
    resumed = run(grid, asked, tmp_path / "toy", shelf=shelf)
    assert resumed.artifact.digest == undisturbed.artifact.digest
    assert resumed.done.state.starts["channels"]["task"] == "before"


def test_a_coordinator_without_weights_starts_from_tasks_of_the_clients_weights(
    grid: LoopGrid, invitation: Invitation, shelf: Shelf, tmp_path: Path
) -> None:
    model = invitation.model.with_weights("")
    found = Shelf.read(tmp_path / "shelf", model)
    asked = invitation.model_copy(update={"model": model})
    outcome = run(grid, asked, tmp_path / "toy", shelf=found)
    assert outcome.done.state.starts["coefficients"]["task"] == "before"
    with pytest.raises(DataError, match="no task to start from is of the clients' weights"):
        found.on("f" * 64)


def test_a_folder_without_a_task_is_refused_at_once(
    clients: list[Path],
    llama_folder: Path,
    task: TaskDefinition,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [f"--model={llama_folder}", f"--labels={','.join(task.names)}"]
    options += [f"--simulate={clients[0]}", f"--out={tmp_path / 'task'}"]
    (tmp_path / "tasks").mkdir()
    assert federate([*options, f"--start-from={tmp_path / 'tasks'}"]) == 1
    assert "no task to start from (none is fitted at the sites)" in capsys.readouterr().err
