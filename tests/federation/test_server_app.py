"""The coordinator's job: what a saved state belongs to, and where its file must lie."""

from pathlib import Path

import pytest

from calibration.federation.coordinator import app as server_app
from calibration.federation.coordinator.app import FederationJob
from calibration.federation.coordinator.fleet import Terms
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import FIT
from ifedicl_serve.errors import DataError, FederationError, QuorumError
from tests.federation.conftest import LoopGrid


@pytest.fixture
def job(grid: LoopGrid, invitation: Invitation, tmp_path: Path) -> FederationJob:
    """A job that stopped after stage 1: its state is there, and now its clients answer."""
    job = FederationJob(
        invitation=invitation,
        terms=Terms(clients=3, quorum=3, wait=5, timeout=0.1),
        out=tmp_path / "out",
        state=tmp_path / "state",
        report=tmp_path / "out" / "report",
        data=("rows",),
    )
    for node in grid.nodes.values():
        node.tamper = lambda kind, content: None if kind == FIT else content
    with pytest.raises(QuorumError, match="0 clients answered train.fit"):
        job.run(grid)
    for node in grid.nodes.values():
        node.tamper = lambda kind, content: content
    return job


def test_a_state_is_continued(job: FederationJob, grid: LoopGrid) -> None:
    before = len(grid.received)
    job.run(grid)
    kinds = {reply.metadata.message_type for reply in grid.received[before:]}
    assert kinds == {"query.join", "train.fit", "evaluate.judge"}
    assert (job.out / "report" / "report.md").is_file()


def test_a_state_of_other_simulated_data_is_refused(job: FederationJob, grid: LoopGrid) -> None:
    with pytest.raises(DataError, match="with other settings, model or data"):
        job.model_copy(update={"data": ("other rows",)}).run(grid)


def test_a_state_of_another_version_is_refused(
    job: FederationJob, grid: LoopGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_app, "__version__", "0.0.0")
    with pytest.raises(DataError, match="by another version of ifedicl-serve"):
        job.run(grid)


def test_a_job_file_on_another_machine_is_named(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "federation.json"
    with pytest.raises(FederationError) as caught:
        FederationJob.read(path)
    assert str(path) in str(caught.value) and "the SuperLink's machine" in str(caught.value)
