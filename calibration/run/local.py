"""A calibration whose clients are all in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from calibration.calibrate import calibrate
from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.result.outcome import Outcome
from calibration.result.record import (
    FLOAT32_BYTES,
    Losses,
    calibration_spec,
    measurements,
)
from calibration.run.progress import Progress
from calibration.run.recorder import Recorder
from calibration.settings import Settings
from calibration.stages.evaluate import NOTHING, Measured, before_and_after
from calibration.stages.extract import ClientVector, extract_vector
from calibration.stages.fit import ClientUpdate, fit_round
from calibration.state import State, StateStore, fingerprint
from calibration.task import TaskDefinition
from ifedicl_serve import __version__
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import SITES
from ifedicl_serve.contract.spec import TaskSpec


@dataclass(frozen=True)
class Job:
    """Everything a calibration is made of. `held_out` is measured on, never fitted to.

    Metrics are exact and published: with private settings those rows must be public.
    """

    model: HookedModel
    identity: ModelIdentity
    task: TaskDefinition
    clients: Sequence[Sequence[Example]]
    held_out: Sequence[Example]
    settings: Settings

    def fingerprint(self) -> str:
        """What a saved state must have been made from to be continued."""
        return fingerprint(
            __version__,
            self.identity.model_dump(),
            str(self.model.network.dtype),
            self.model.device.type,
            self.task.name,
            self.task.prompt.model_dump(),
            [label.model_dump() for label in self.task.labels],
            self.settings.record(),
            [[(example.text, example.label) for example in client] for client in self.clients],
            [(example.text, example.label) for example in self.held_out],
        )


def task_spec(job: Job, measured: Measured = NOTHING, losses: Losses = ()) -> TaskSpec:
    """`task.json` of a calibration in one process."""
    shape = (job.model.num_layers, len(SITES), job.model.hidden_size)
    precision = str(job.model.network.dtype).split(".")[1]
    return calibration_spec(
        job.task,
        job.identity,
        shape,
        job.settings,
        client_sizes=[len(client) for client in job.clients],
        vector_bytes=FLOAT32_BYTES * prod(shape),
        measured=measurements(*measured),
        circumstances={"dtype": precision},
        losses=losses,
    )


class LocalClients:
    """Every client's examples, and the model that all of them run."""

    def __init__(
        self,
        model: HookedModel,
        task: TaskDefinition,
        parts: Sequence[Sequence[Example]],
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.model, self.task, self.parts = model, task, parts
        self.settings, self.progress = settings, progress

    @property
    def numbers(self) -> Sequence[int]:
        """In the order of their data."""
        return range(len(self.parts))

    def vectors(self) -> dict[int, ClientVector]:
        """One after the other."""
        return {client: self.vector(client) for client in self.numbers}

    def vector(self, client: int) -> ClientVector:
        """Stage 1 of one client."""
        self.progress.extracting(client, len(self.parts))
        return extract_vector(self.model, self.task, self.parts[client], self.settings, client)

    def received(self, context_vector: Tensor) -> Tensor:
        """As it is: there is no wire."""
        return context_vector

    def fit(self, state: State) -> dict[int, ClientUpdate]:
        """One after the other."""
        return {client: self.update(client, state) for client in self.numbers}

    def update(self, client: int, state: State) -> ClientUpdate:
        """A round of stage 2 of one client."""
        return fit_round(
            self.model,
            self.task,
            self.parts[client],
            state.context_vector,
            state.current,
            self.settings,
            client,
            state.rounds_done,
            self.progress.fitting(client, state.rounds_done),
        )


def calibrate_here(job: Job, folder: Path, store: StateStore, progress: Progress) -> Outcome:
    """Calibrate a task, going on from a saved state if there is one, and save its artifact."""
    clients = LocalClients(job.model, job.task, job.clients, job.settings, progress)
    recorder = Recorder(job.settings, store.load(), store, progress)
    state = calibrate(clients, job.settings, recorder)
    measured = _measured(job, state, progress)
    return recorder.finished(state, measured, task_spec(job, measured, state.losses), folder)


def _measured(job: Job, state: State, progress: Progress) -> Measured:
    if not job.held_out:
        return NOTHING
    progress.evaluating(len(job.held_out))
    return before_and_after(
        job.model, job.task, job.held_out, job.settings, state.context_vector, state.current
    )
