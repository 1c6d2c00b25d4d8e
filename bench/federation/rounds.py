"""A federation in one process, by the loop that the real one runs, and what it costs a client.

Flower carries the same tensors (tests/federation); here they pass through its wire formats only.
An attack changes what the last client sends. Knows no data sets and no tables.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from unittest import mock

from torch import Tensor, zeros_like

from calibration.calibrate import Watch, calibrate
from calibration.data.examples import Example
from calibration.data.rows import Rows
from calibration.federation.wire.tensors import Wire, decode, encode, encoded_bytes
from calibration.model.hooked import NOTHING, Beginning, HookedModel
from calibration.model.objective import Objective
from calibration.run.local import LocalClients
from calibration.run.progress import Progress
from calibration.settings import Settings, SiteFit
from calibration.stages.evaluate import Evaluation, Metrics
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from calibration.state import State
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import BETA, BETA_START, adapted_mask, fold
from ifedicl_serve.fitting.features import FloatArray

POISON = -10.0  # what a poisoned client multiplies its vector and its updates by

Coefficients = Literal["both", "lambda", "beta"]
Poison = Literal["no", "labels", "update"]


class MeteredModel(HookedModel):
    """A hooked model that counts what clients make it do: CPU seconds, tokens read forward and
    tokens gone back through. Padding is not counted."""

    def __init__(self, network: Any, tokenizer: Any) -> None:
        super().__init__(network, tokenizer)
        self.seconds = 0.0
        self.forward_tokens = 0
        self.backward_tokens = 0
        self._working = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """A client's turn."""
        started, self._working = time.process_time(), True
        try:
            yield
        finally:
            self.seconds += time.process_time() - started
            self._working = False

    def hidden(
        self,
        sequences: Sequence[Sequence[int]],
        starts: Sequence[int] | None = None,
        beginning: Beginning = NOTHING,
    ) -> Tensor:
        output = super().hidden(sequences, starts, beginning)
        if self._working:
            tokens = sum(map(len, sequences))
            self.forward_tokens += tokens
            self.backward_tokens += tokens if output.requires_grad else 0
        return output


@dataclass
class Trace:
    """One run: metrics as often as it was measured, and what a client (their mean) had spent by
    then. Bytes are the payload of one client, up and down together."""

    model: MeteredModel
    clients: int
    metrics: list[Metrics] = field(default_factory=list)
    spent: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = self._read()

    def add(self, metrics: Metrics, payload: int) -> None:
        """What is true after a round."""
        spent = [
            round((now - start) / self.clients, 3)
            for now, start in zip(self._read(), self._start, strict=True)
        ]
        names = ("seconds", "forward_tokens", "backward_tokens")
        self.metrics.append(metrics)
        self.spent.append(dict(zip(names, spent, strict=True)) | {"bytes": payload})

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {"metrics": self.metrics, "spent": self.spent}

    def _read(self) -> tuple[float, int, int]:
        return self.model.seconds, self.model.forward_tokens, self.model.backward_tokens


@dataclass(frozen=True)
class Variant:
    """A way to run ours. `poison`: what the last client does: rename its `labels` (done to its
    data, before the run), or send its vector and `update` times POISON."""

    settings: dict[str, Any] = field(default_factory=dict)
    coefficients: Coefficients = "both"
    wire: Wire = "fp32"
    poison: Poison = "no"


class MeteredClients(LocalClients):
    """Clients in this process whose work is metered, whose tensors pass through a wire's format,
    and of whom the last may be poisoned."""

    def __init__(
        self,
        model: MeteredModel,
        task: TaskDefinition,
        parts: Sequence[Sequence[Example]],
        settings: Settings,
        variant: Variant,
    ) -> None:
        super().__init__(model, task, [Rows(part) for part in parts], settings, Progress())
        self.metered, self.variant = model, variant

    def vector(self, client: int) -> ClientVector:
        with self.metered.working():
            sent = super().vector(client)
        vector = POISON * sent.vector if self._poisoned(client) else sent.vector
        return replace(sent, vector=through_wire(vector, self.variant.wire))

    def received(self, values: Tensor) -> Tensor:
        """Zeros, where beta alone is fitted."""
        if self.variant.coefficients == "beta":
            return zeros_like(values)
        return through_wire(values, self.variant.wire)

    def update(self, client: int, state: State, fit: SiteFit) -> ClientUpdate:
        with self.metered.working(), fitting_only(self.variant.coefficients):
            update = super().update(client, state, fit)
        if not self._poisoned(client):
            return update
        current = state.current(fit)
        return replace(update, values=current + POISON * (update.values - current))

    def _poisoned(self, client: int) -> bool:
        return self.variant.poison == "update" and client == self.numbers[-1]


class Traced(Watch):
    """Measures after stage 1 and every round, or at the end alone."""

    def __init__(
        self,
        trace: Trace,
        evaluation: Evaluation,
        settings: Settings,
        wire: Wire,
        every_round: bool,
    ) -> None:
        self.trace, self.evaluation, self.settings = trace, evaluation, settings
        self.wire, self.every_round = wire, every_round

    def began(self, state: State, vectors: Mapping[int, ClientVector]) -> State:
        return self._measured(state)

    def round_done(self, state: State, fit: SiteFit, updates: Mapping[int, ClientUpdate]) -> State:
        return self._measured(state)

    def _measured(self, state: State) -> State:
        if self.every_round or state.rounds_done("coefficients") == self.settings.rounds:
            self.trace.add(self.evaluation.metrics(self._scores(state)), self._payload(state))
        return state

    def _scores(self, state: State) -> FloatArray:
        layers, sites = self.settings.layers, self.settings.sites
        mask = adapted_mask(self.evaluation.model.num_layers, layers, sites)
        return self.evaluation.adapted(fold(*self._tensors(state)), mask)

    def _payload(self, state: State) -> int:
        """Bytes of one client by now, up and down."""
        vector, coefficients = self._tensors(state)
        once = encoded_bytes(tuple(vector.shape), self.wire)
        a_round = encoded_bytes(tuple(coefficients.shape), "fp32")
        return 2 * (once + state.rounds_done("coefficients") * a_round)

    def _tensors(self, state: State) -> tuple[Tensor, Tensor]:
        """Context vector and current coefficients; the start's before the first round."""
        assert state.context_vector is not None
        begun = state.begun("coefficients", self.settings)
        return state.context_vector, begun.current("coefficients")


def run_federated(
    model: MeteredModel,
    evaluation: Evaluation,
    parts: Sequence[Sequence[Example]],
    settings: Settings,
    variant: Variant,
    every_round: bool = False,
) -> Trace:
    """Stage 1, then the rounds; measured at the end, or after stage 1 and every round."""
    trace = Trace(model, len(parts))
    clients = MeteredClients(model, evaluation.task, parts, settings, variant)
    calibrate(clients, settings, Traced(trace, evaluation, settings, variant.wire, every_round))
    return trace


def through_wire(tensor: Tensor, wire: Wire) -> Tensor:
    """What arrives of a tensor."""
    return decode(encode(tensor, wire), wire, tuple(tensor.shape))


def fitting_only(coefficients: Coefficients) -> AbstractContextManager[object]:
    """Hold beta at its start while lambda is fitted. Beta alone needs no holding: it is fitted
    with a context vector of zeros."""
    if coefficients != "lambda":
        return nullcontext()
    original = Objective.with_adapted

    def held(objective: Objective, adapted: Tensor) -> Tensor:
        replaced = original(objective, adapted)
        replaced[..., objective.mask, BETA] = BETA_START
        return replaced

    return mock.patch.object(Objective, "with_adapted", held)
