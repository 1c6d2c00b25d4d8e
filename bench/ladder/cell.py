"""One measurement: training rows of one client or of several, by every rung and every rival."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.common.data_sets import DataSet
from bench.ladder.lora import tuned_lora
from calibration.calibrate import Calibrated, Watch, calibrate
from calibration.data.rows import Rows
from calibration.ladder import LADDER
from calibration.model.hooked import HookedModel
from calibration.readout.metered import Payload
from calibration.result.record import FLOAT32_BYTES
from calibration.run.local import LocalClients
from calibration.run.progress import Progress
from calibration.settings import SITE_FITS, Settings
from calibration.stages.evaluate import Evaluation, read_out
from calibration.stages.read import features_of
from ifedicl_serve.contract.injection import SITES, TensorName
from ifedicl_serve.contract.readout import Readout, log_softmax
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.record import numbers
from ifedicl_serve.fitting.rungs import Rung

BINS = 15  # of the expected calibration error


def measure(
    model: HookedModel,
    source: str,
    data: DataSet,
    parts: Sequence[Rows],
    settings: Settings,
    shots: Sequence[int],
    lora_rates: Mapping[int, Sequence[float]],
) -> dict[str, Any]:
    """Metrics on the test rows of every method, and what held-out rows said of ours.

    `parts` are the rows of each client, `shots` the sizes of few-shot prompts, and `lora_rates` the
    learning rates to try, by rank.
    """
    evaluation = Evaluation(model, data.task, data.test)
    bare = evaluation.features(evaluation.texts)
    measured = ours(model, data, evaluation, parts, settings, bare)
    measured["methods"] |= rivals(evaluation, parts, bare, settings.seed, shots)
    for rank, rates in lora_rates.items():
        scores, spent = tuned_lora(source, data, parts, settings, rank, rates)
        for name, log_probs in scores.items():
            measured["methods"][f"lora_{rank}{name}"] = scored(evaluation, log_probs) | spent
    return measured


def ours(
    model: HookedModel,
    data: DataSet,
    evaluation: Evaluation,
    parts: Sequence[Rows],
    settings: Settings,
    bare: Features,
) -> dict[str, Any]:
    """Every rung on the test rows, with what it took; what held-out rows said of each, and which
    they choose."""

    def run(settings: Settings) -> tuple[Calibrated, Spent]:
        progress = Progress(time.process_time)
        clients = LocalClients(model, data.task, parts, settings, progress)
        done = calibrate(clients, settings, Watch())
        progress.done()
        return done, Spent(len(parts), progress.seconds, done.sums, settings)

    done, spent = run(replace(settings, least_held_out=1))
    few = sum(len(rows.held_out) for rows in parts) < settings.least_held_out
    auto, spent_by_auto = run(settings) if few else (done, spent)
    shape = model.num_layers, len(SITES), model.hidden_size
    texts = {"none": bare} | {
        fit: features_of(model, data.task, data.test, done.state.injection(fit), settings)
        for fit in SITE_FITS
    }
    methods = {
        rung.name: scored(evaluation, read(texts[rung.fit], done.tensors_of(rung)))
        | {"numbers": numbers(rung, done.labels, shape)}
        | spent.on(rung, shape)
        for rung in LADDER
    }
    chosen = read(texts[auto.rung.fit], auto.tensors)
    methods["auto"] = scored(evaluation, chosen) | spent_by_auto.in_all(shape)
    methods["auto"]["rung"] = auto.rung.name
    trials = {
        trial.rung.name: {**trial.metrics, "excess": trial.excess, "error": trial.standard_error}
        for trial in done.trials
    }
    return {"methods": methods, "trials": trials}


class Spent(NamedTuple):
    """What a client (their mean) spends: seconds of a core by stage, and bytes of readouts."""

    clients: int
    stages: Mapping[str, float]
    sums: Payload
    settings: Settings

    def on(self, rung: Rung, shape: tuple[int, int, int]) -> dict[str, float]:
        """On one rung alone; bytes are both ways. Of the seconds in which the readouts of all fits
        are fitted, a fit is counted an equal part."""
        needed = {"read" if rung.fit == "none" else f"read {rung.fit}"}
        payload = 0
        if rung.fit != "none":
            needed = {"extract", f"fit {rung.fit}", *(needed if rung.readout != "none" else ())}
            payload += self._at_sites({rung.fit}, shape)
        seconds = self._seconds(needed)
        if rung.readout != "none":
            payload += self._read_out({rung.fit})
            seconds += self._seconds({"compare"}) / len(self.sums.up)
        return self._spent(seconds, payload)

    def in_all(self, shape: tuple[int, int, int]) -> dict[str, float]:
        """On the whole ladder, for the choice."""
        fitted = {fit for fit in SITE_FITS if f"fit {fit}" in self.stages}
        payload = self._at_sites(fitted, shape) + self._read_out(self.sums.up)
        return self._spent(self._seconds(self.stages), payload)

    def _seconds(self, stages: Iterable[str]) -> float:
        return sum(self.stages.get(stage, 0.0) for stage in stages)

    def _spent(self, seconds: float, payload: int) -> dict[str, float]:
        return {"seconds": round(seconds / self.clients, 2), "bytes": payload}

    def _at_sites(self, fits: Collection[Fit], shape: tuple[int, int, int]) -> int:
        layers, sites, hidden = shape
        of_a_round = {"coefficients": 2, "channels": 2 * hidden}
        rounds = self.settings.rounds * sum(of_a_round[fit] for fit in fits)
        return 2 * FLOAT32_BYTES * layers * sites * (rounds + hidden) if fits else 0

    def _read_out(self, fits: Iterable[Fit]) -> int:
        return sum(self.sums.up[fit] + self.sums.down[fit] for fit in fits)


def rivals(
    evaluation: Evaluation, parts: Sequence[Rows], bare: Features, seed: int, shots: Sequence[int]
) -> dict[str, Any]:
    """What needs no fit: a mean removed, demonstrations in the prompt."""
    train = [example for rows in parts for example in rows.everything]
    removed = evaluation.mean_removed(bare.log_probs, [example.text for example in train])
    scores = {"mean_removed": removed} | {
        f"few_shot_{number}": evaluation.few_shot(train, number, seed) for number in shots
    }
    return {name: scored(evaluation, log_probs) for name, log_probs in scores.items()}


def read(features: Features, tensors: Mapping[TensorName, Any]) -> npt.NDArray:
    """Label log-probabilities of a rung's readout."""
    return read_out(features, Readout.of(tensors))


def scored(evaluation: Evaluation, log_probs: npt.NDArray) -> dict[str, Any]:
    """Accuracy, log-loss, macro-F1 and expected calibration error."""
    return evaluation.metrics(log_probs) | {"ece": calibration_error(log_probs, evaluation.truth)}


def calibration_error(log_probs: npt.NDArray, truth: npt.NDArray[np.int_]) -> float:
    """Expected calibration error of the best label's probability, in equal bins (Guo et al.,
    arXiv 1706.04599)."""
    best = np.exp(log_softmax(log_probs.astype(np.float64))).max(axis=1)
    right = log_probs.argmax(axis=1) == truth
    bins = np.minimum((best * BINS).astype(int), BINS - 1)
    gaps = [abs((right[bins == b] - best[bins == b]).sum()) for b in range(BINS)]
    return round(float(sum(gaps) / len(best)), 6)
