"""The coordinator run against clients in this process (`conftest.LoopGrid`)."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from calibration.federation.coordinator.federate import federate
from calibration.federation.coordinator.fleet import Terms
from calibration.federation.wire.invitation import Invitation
from calibration.result.outcome import Outcome
from calibration.run.local import Job, calibrate_here
from calibration.run.progress import Progress
from calibration.settings import SiteFit
from calibration.stages.start import EMPTY, Shelf
from calibration.state import StateStore, fingerprint
from tests.federation.conftest import LoopGrid

TERMS = Terms(clients=3, quorum=2, wait=0.5, timeout=0.5)


def asking(invitation: Invitation, **choices: Any) -> Invitation:
    """The invitation with other settings."""
    settings = dataclasses.replace(invitation.settings, **choices)
    return invitation.model_copy(update={"settings": settings})


def run(
    grid: LoopGrid,
    invitation: Invitation,
    out: Path,
    terms: Terms = TERMS,
    progress: Progress | None = None,
    shelf: Shelf = EMPTY,
) -> Outcome:
    store = StateStore(out.parent / f".{out.name}", fingerprint(invitation.model_dump(mode="json")))
    return federate(invitation, terms, out, grid, store, progress or Progress(), shelf)


def run_here(job: Job, folder: Path) -> Outcome:
    """The same in one process."""
    store = StateStore(folder.parent / f".{folder.name}.state", job.fingerprint())
    return calibrate_here(job, folder, store, Progress())


def held(outcome: Outcome) -> dict[str, torch.Tensor]:
    """The artifact's tensors by name."""
    return dict(outcome.artifact.tensors)


def kinds(grid: LoopGrid) -> set[str]:
    """Of all messages that were answered."""
    return {reply.metadata.message_type for reply in grid.received}


class Killed(Exception):
    """Stands for a kill after a round has been saved."""


class KilledIn(Progress):
    def __init__(self, round_index: int) -> None:
        super().__init__()
        self.round_index = round_index

    def fitting(self, fit: SiteFit, client: int, round_index: int):
        if round_index == self.round_index:
            raise Killed
        return super().fitting(fit, client, round_index)
