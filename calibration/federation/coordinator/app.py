"""The Flower ServerApp: reads what `ifedicl federate` wrote down, runs the coordinator."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Self

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from pydantic import BaseModel, ConfigDict

from calibration.federation.coordinator.federate import federate
from calibration.federation.coordinator.fleet import Terms
from calibration.federation.wire.invitation import Invitation
from calibration.result.report import write_report
from calibration.run.progress import Progress
from calibration.settings import SiteFit
from calibration.stages.start import EMPTY, Shelf
from calibration.state import StateStore, fingerprint
from ifedicl_serve import __version__
from ifedicl_serve.errors import FederationError

logger = logging.getLogger("flwr")  # Flower shows and collects this logger's lines


class FederationJob(BaseModel):
    """A run of the coordinator: what is asked of whom, the folders of its artifact, its saved
    state and its report, a task or a folder of tasks to start from, and digests of the clients'
    rows if they are simulated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    invitation: Invitation
    terms: Terms
    out: Path
    state: Path
    report: Path
    start_from: Path | None = None
    data: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """The job in a file that `write` wrote. Raises FederationError."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise FederationError(
                f"cannot read {path} ({error.strerror}), which `ifedicl federate` wrote; run it on "
                "the SuperLink's machine, as a user whose files the SuperLink can read and write"
            ) from error
        return cls.model_validate_json(text)

    def write(self, path: Path) -> None:
        """Keep the job for the ServerApp, which Flower starts in a process of its own."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2), encoding="utf-8")

    @staticmethod
    def remove(path: Path) -> None:
        """Forget a job that is done, and its folder if that is empty: a coordinator that was
        killed while it saved its state has left a file there."""
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()

    def shelf(self) -> Shelf:
        """The tasks to start from. Raises DataError if none of them can be."""
        return Shelf.read(self.start_from, self.invitation.model) if self.start_from else EMPTY

    def fingerprint(self, shelf: Shelf) -> str:
        """What a saved state must have been made from to be continued. Clients that are not
        simulated keep their rows, and with them what those are, to themselves."""
        invitation = self.invitation.model_dump(mode="json")
        return fingerprint(__version__, invitation, self.data, shelf.digests)

    def run(self, grid: Grid) -> None:
        """Calibrate with the clients on `grid`; the artifact and its report are the result."""
        progress, shelf = LoggedProgress(self.invitation.settings.rounds), self.shelf()
        store = StateStore(self.state, self.fingerprint(shelf))
        outcome = federate(self.invitation, self.terms, self.out, grid, store, progress, shelf)
        progress.done()
        path = write_report(outcome, progress.seconds, self.report)
        artifact = outcome.artifact
        logger.info(
            "task %s: %s (digest %s), report %s",
            self.out,
            artifact.spec.rung,
            artifact.digest[:16],
            path,
        )


class LoggedProgress(Progress):
    """Progress as log lines, which Flower streams to whoever started the run."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    def round_done(
        self, fit: SiteFit, rounds_done: int, losses: Mapping[int, Sequence[float]]
    ) -> None:
        means = ", ".join(
            f"client {client}: {fmean(steps):.3f}" if steps else f"client {client}: -"
            for client, steps in losses.items()
        )
        logger.info("%s, round %d/%d: mean loss of %s", fit, rounds_done, self.rounds, means)

    def comparing(self) -> None:
        super().comparing()
        logger.info("clients read their rows, for readouts and to compare rungs")

    def warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            logger.warning("%s", warning)


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job that the run's configuration names; its file goes when it is done."""
    path = Path(str(context.run_config["job"]))
    FederationJob.read(path).run(grid)
    FederationJob.remove(path)
