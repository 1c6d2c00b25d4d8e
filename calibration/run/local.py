"""A calibration whose clients are all in this process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from operator import add
from pathlib import Path

from torch import Tensor

from calibration.calibrate import Calibrated, calibrate
from calibration.data.examples import Example
from calibration.data.rows import Rows
from calibration.model.hooked import HookedModel
from calibration.privacy.readout import PrivateReader, PrivateReaders
from calibration.result.outcome import Outcome
from calibration.result.record import FLOAT32_BYTES, calibration_spec
from calibration.run.progress import Progress
from calibration.run.recorder import Recorder
from calibration.settings import Settings, SiteFit
from calibration.stages.evaluate import before_and_after
from calibration.stages.extract import ClientVector, extract_vector
from calibration.stages.fit import ClientUpdate, fit_round
from calibration.stages.read import held_out_loss, read_privately, read_rows
from calibration.stages.start import EMPTY, Shelf
from calibration.state import State, StateStore, fingerprint
from calibration.task import TaskDefinition
from ifedicl_serve import __version__
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import SITES
from ifedicl_serve.contract.spec import Fit, TaskSpec
from ifedicl_serve.fitting.fit import Stack
from ifedicl_serve.fitting.judge import Judgement, judge_rows
from ifedicl_serve.fitting.reader import Read, Readers
from ifedicl_serve.fitting.rungs import Rung


@dataclass(frozen=True)
class Job:
    """Everything a calibration is made of. `test` is measured on and nothing else.

    Metrics are exact and published: with private settings those rows must be public.
    """

    model: HookedModel
    identity: ModelIdentity
    task: TaskDefinition
    clients: Sequence[Rows]
    test: Sequence[Example]
    settings: Settings
    shelf: Shelf = EMPTY

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
            [[_plain(part) for part in rows] for rows in self.clients],
            self.shelf.digests,
        )


def _plain(examples: Sequence[Example]) -> list[tuple[str, str]]:
    return [(example.text, example.label) for example in examples]


def task_spec(job: Job, done: Calibrated | None = None) -> TaskSpec:
    """`task.json` of a calibration in one process; before it has begun, to see whether it can be
    written."""
    shape = (job.model.num_layers, len(SITES), job.model.hidden_size)
    circumstances: dict[str, int | float | str] = {
        "dtype": str(job.model.network.dtype).split(".")[1],
        "max_batch_tokens": job.model.max_batch_tokens,
    }
    return calibration_spec(
        job.task,
        job.identity,
        shape,
        job.settings,
        client_sizes=[len(rows.train) for rows in job.clients],
        vector_bytes=FLOAT32_BYTES * prod(shape),
        circumstances=circumstances,
        done=done,
    )


class LocalClients:
    """Every client's rows, and the model that all of them run."""

    def __init__(
        self,
        model: HookedModel,
        task: TaskDefinition,
        parts: Sequence[Rows],
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.model, self.task, self.parts = model, task, parts
        self.settings, self.progress = settings, progress
        self._reads: list[dict[str, Read]] = [{} for _ in parts]

    @property
    def numbers(self) -> Sequence[int]:
        """In the order of their data."""
        return range(len(self.parts))

    @property
    def labels(self) -> int:
        """Those of the task."""
        return len(self.task.labels)

    @property
    def held_out(self) -> int:
        """Of all clients."""
        return sum(len(rows.held_out) for rows in self.parts)

    def vectors(self) -> dict[int, ClientVector]:
        """One after the other."""
        return {client: self.vector(client) for client in self.numbers}

    def vector(self, client: int) -> ClientVector:
        """Stage 1 of one client."""
        self.progress.extracting(client, len(self.parts))
        return extract_vector(
            self.model, self.task, self.parts[client].train, self.settings, client
        )

    def received(self, values: Tensor) -> Tensor:
        """As it is: there is no wire."""
        return values

    def fit(self, state: State, fit: SiteFit) -> dict[int, ClientUpdate]:
        """One after the other."""
        return {client: self.update(client, state, fit) for client in self.numbers}

    def update(self, client: int, state: State, fit: SiteFit) -> ClientUpdate:
        """A round of stage 2 of one client."""
        assert state.context_vector is not None
        return fit_round(
            self.model,
            self.task,
            self.parts[client].train,
            fit,
            state.context_vector,
            state.current(fit),
            self.settings,
            client,
            state.rounds_done(fit),
            self.progress.fitting(fit, client, state.rounds_done(fit)),
        )

    def held_out_loss(self, state: State, fit: SiteFit) -> float | None:
        """Over all clients' rows together."""
        if self.held_out == 0:
            return None
        injection = state.injection(fit, state.current(fit))
        assert injection is not None
        told = [
            held_out_loss(self.model, self.task, rows, injection, self.settings)
            for rows in self.parts
        ]
        return sum(loss for loss, _ in told) / self.held_out

    def readers(self, state: State, fits: Sequence[Fit], rungs: Sequence[Rung]) -> Readers:
        """Of every client."""
        by_held_out = self.held_out > 0 and any(rung.fit != "none" for rung in rungs)
        for fit in fits:
            self.progress.reading(fit)
            injection = state.injection(fit)
            for rows, reads in zip(self.parts, self._reads, strict=True):
                reads[fit] = read_rows(
                    self.model, self.task, rows, injection, self.settings, by_held_out
                )
        self.progress.comparing()
        return Readers({fit: [reads[fit].reader for reads in self._reads] for fit in fits})

    def private_readers(self, state: State, fit: Fit) -> PrivateReaders:
        """Of every client, of the rows it fits to."""
        self.progress.reading(fit)
        injection = state.injection(fit)
        rows = (
            read_privately(self.model, self.task, part.train, injection, self.settings)
            for part in self.parts
        )
        return PrivateReaders([PrivateReader(some, self.settings) for some in rows])

    def judge(self, rungs: Sequence[Rung], stacks: Mapping[Rung, Stack]) -> Judgement:
        """By the rows of `readers`."""
        return reduce(add, (judge_rows(reads, rungs, stacks) for reads in self._reads))


def calibrate_here(job: Job, folder: Path, store: StateStore, progress: Progress) -> Outcome:
    """Calibrate a task, going on from a saved state if there is one, and save its artifact."""
    clients = LocalClients(job.model, job.task, job.clients, job.settings, progress)
    recorder = Recorder(job.settings, job.task.names, store.load(), store, progress)
    done = calibrate(clients, job.settings, recorder, job.shelf)
    if job.test:
        progress.evaluating(len(job.test))
        measured = before_and_after(job.model, job.task, job.test, job.settings, done.tensors)
        done = replace(done, measured=measured)
    return recorder.finished(done, task_spec(job, done), folder)
