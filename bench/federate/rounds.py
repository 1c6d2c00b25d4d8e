"""A federation in one process, by the functions the real one calls, and what it costs a client.

Flower carries the same tensors (tests/calibration/federation); here they pass through its wire
formats only. An attack changes what the last client sends. Knows no data sets and no tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from unittest import mock

from torch import Tensor, zeros_like

from calibration.data.examples import Example
from calibration.federation.wire.tensors import Wire, decode, encode, encoded_bytes
from calibration.model.hooked import HookedModel
from calibration.settings import Settings
from calibration.stages import fit
from calibration.stages.aggregate import aggregate_updates, aggregate_vectors
from calibration.stages.evaluate import Evaluation, Metrics
from calibration.stages.extract import extract_vector
from calibration.stages.robust import AGGREGATORS
from ifedicl_serve.contract.injection import BETA, BETA_START, adapted_mask, initial_coefficients

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

    def hidden(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        output = super().hidden(sequences)
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


def run_federated(
    model: MeteredModel,
    evaluation: Evaluation,
    parts: Sequence[Sequence[Example]],
    settings: Settings,
    variant: Variant,
    every_round: bool = False,
) -> Trace:
    """Stage 1, then the rounds; measured at the end, or after stage 1 and every round."""
    task, clients = evaluation.task, range(len(parts))
    mask = adapted_mask(model.num_layers, settings.layers, settings.sites)
    rule = AGGREGATORS[settings.aggregation]
    poisoned = [variant.poison == "update" and client == clients[-1] for client in clients]
    trace = Trace(model, len(parts))

    vectors = []
    for client in clients:
        with model.working():
            sent = extract_vector(model, task, parts[client], settings, client)
        vector = POISON * sent.vector if poisoned[client] else sent.vector
        vectors.append(replace(sent, vector=through_wire(vector, variant.wire)))
    context_vector = through_wire(aggregate_vectors(vectors, rule), variant.wire)
    if variant.coefficients == "beta":
        context_vector = zeros_like(context_vector)
    coefficients = initial_coefficients(model.num_layers, settings.layers, settings.sites)
    payload = 2 * encoded_bytes(tuple(context_vector.shape), variant.wire)

    def measured() -> Metrics:
        return evaluation.metrics(evaluation.adapted(context_vector, coefficients, mask))

    if every_round:
        trace.add(measured(), payload)
    for number in range(settings.rounds):
        updates = []
        for client in clients:
            with model.working(), fitting_only(variant.coefficients):
                update = fit.fit_round(
                    model,
                    task,
                    parts[client],
                    context_vector,
                    coefficients,
                    settings,
                    client,
                    number,
                )
            if poisoned[client]:
                moved = coefficients + POISON * (update.coefficients - coefficients)
                update = replace(update, coefficients=moved)
            updates.append(update)
        coefficients = aggregate_updates(updates, rule)
        payload += 2 * encoded_bytes(tuple(coefficients.shape), "fp32")
        if every_round or number + 1 == settings.rounds:
            trace.add(measured(), payload)
    return trace


def through_wire(tensor: Tensor, wire: Wire) -> Tensor:
    """What arrives of a tensor."""
    return decode(encode(tensor, wire), wire, tuple(tensor.shape))


def fitting_only(coefficients: Coefficients) -> AbstractContextManager[object]:
    """Hold beta at its start while lambda is fitted. Beta alone needs no holding: it is fitted
    with a context vector of zeros."""
    if coefficients != "lambda":
        return nullcontext()
    original: Callable[..., Tensor] = fit.with_adapted

    def held(start: Tensor, mask: Tensor, adapted: Tensor) -> Tensor:
        replaced = original(start, mask, adapted)
        replaced[..., mask, BETA] = BETA_START
        return replaced

    return mock.patch.object(fit, "with_adapted", held)
