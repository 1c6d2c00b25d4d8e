"""One measurement: a data set, so many rows and a seed, by every rung and every rival."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.common.data_sets import DataSet
from bench.ladder.lora import tuned_lora
from calibration.calibrate import Calibrated, Watch, calibrate
from calibration.data.examples import split_held_out
from calibration.data.rows import Rows
from calibration.ladder import LADDER, Rung
from calibration.model.hooked import HookedModel
from calibration.model.score import Features
from calibration.result.record import numbers
from calibration.run.local import LocalClients
from calibration.run.progress import Progress
from calibration.settings import SITE_FITS, Settings
from calibration.stages.evaluate import Evaluation, read_out
from calibration.stages.read import features_of
from ifedicl_serve.contract.injection import SITES, TensorName
from ifedicl_serve.contract.readout import Readout, log_softmax

HELD_OUT = 0.2
SHOTS = (8, 16)
BINS = 15  # of the expected calibration error


def measure(
    model: HookedModel,
    source: str,
    data: DataSet,
    count: int,
    settings: Settings,
    lora_rates: Mapping[int, Sequence[float]],
) -> dict[str, Any]:
    """Metrics on the test rows of every method, and what held-out rows said of ours.

    `lora_rates` are the learning rates to try, by rank; without them no rival is measured.
    """
    seed = settings.seed
    drawn = random.Random(seed).sample(list(data.train), count)
    rows = Rows(*split_held_out(drawn, HELD_OUT, seed))
    evaluation = Evaluation(model, data.task, data.test)
    bare = evaluation.features(evaluation.texts)
    measured = ours(model, data, evaluation, rows, settings, bare)
    if not lora_rates:
        return measured
    measured["methods"] |= rivals(evaluation, rows, bare, seed)
    for rank, rates in lora_rates.items():
        found = tuned_lora(source, data, rows, settings, rank, rates)
        for name in ("plain", "with_bias"):
            scores = found.pop(name)
            key = f"lora_{rank}" + ("+bias" if name == "with_bias" else "")
            measured["methods"][key] = scored(evaluation, scores) | found
    return measured


def ours(
    model: HookedModel,
    data: DataSet,
    evaluation: Evaluation,
    rows: Rows,
    settings: Settings,
    bare: Features,
) -> dict[str, Any]:
    """Every rung on the test rows, with the seconds of a core and the numbers it took; what
    held-out rows said of each, and which they choose."""

    def run(settings: Settings) -> tuple[Calibrated, dict[str, float]]:
        progress = Progress(time.process_time)
        clients = LocalClients(model, data.task, [rows], settings, progress)
        done = calibrate(clients, settings, Watch())
        progress.done()
        return done, progress.seconds

    done, seconds = run(replace(settings, least_held_out=1))
    few = len(rows.held_out) < settings.least_held_out
    auto, took = run(settings) if few else (done, seconds)
    shape = model.num_layers, len(SITES), model.hidden_size
    texts = {"none": bare} | {
        fit: features_of(model, data.task, data.test, done.state.injection(fit), settings)
        for fit in SITE_FITS
    }
    methods = {
        rung.name: scored(evaluation, read(texts[rung.fit], done.tensors_of(rung)))
        | {"seconds": seconds_of(rung, seconds), "numbers": numbers(rung, done.labels, shape)}
        for rung in LADDER
    }
    chosen = read(texts[auto.rung.fit], auto.tensors)
    took_all = {"seconds": round(sum(took.values()), 2), "rung": auto.rung.name}
    methods["auto"] = scored(evaluation, chosen) | took_all
    trials = {
        trial.rung.name: {**trial.metrics, "excess": trial.excess, "error": trial.standard_error}
        for trial in done.trials
    }
    return {"methods": methods, "trials": trials}


def seconds_of(rung: Rung, stages: Mapping[str, float]) -> float:
    """What a rung takes, of the seconds of the stages in which all rungs were fitted. Readouts are
    fitted under all fits at once: a fit's are counted an equal part."""
    needed, compared = [], 0.0
    if rung.readout != "none":
        needed = ["read" if rung.fit == "none" else f"read {rung.fit}"]
        compared = stages.get("compare", 0.0) / (1 + len(SITE_FITS))
    if rung.fit != "none":
        needed += ["extract", f"fit {rung.fit}"]
    if rung.fit == "channels":
        needed.append("evaluate")
    return round(compared + sum(stages.get(stage, 0.0) for stage in needed), 2)


def rivals(evaluation: Evaluation, rows: Rows, bare: Features, seed: int) -> dict[str, Any]:
    """What needs no fit: a mean removed, demonstrations in the prompt."""
    train = rows.everything
    removed = evaluation.mean_removed(bare.log_probs, [example.text for example in train])
    scores = {"mean_removed": removed} | {
        f"few_shot_{shots}": evaluation.few_shot(train, shots, seed) for shots in SHOTS
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
