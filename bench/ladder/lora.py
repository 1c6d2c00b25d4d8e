"""The rival: LoRA on the same rows, tuned as carefully as ours.

The same steps, batches, loss, schedule and held-out rows as `channels`; of some learning rates
and every round the one of the lowest held-out loss, and then the same readout (`bias`) from the
same held-out rows. What is measured without the readout is LoRA as it is commonly reported.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.common.data_sets import DataSet
from bench.federation.lora import Lora, add_adapters, load, run_round
from calibration.data.examples import Example
from calibration.data.rows import Rows
from calibration.model.load import open_model
from calibration.settings import Machine, Settings
from calibration.stages.evaluate import Evaluation, read_out
from calibration.stages.read import features_of
from ifedicl_serve.contract.readout import Readout
from ifedicl_serve.fitting.features import Features, FloatArray
from ifedicl_serve.fitting.fit import fit_readouts, readout_tensors
from ifedicl_serve.fitting.folds import folds_of
from ifedicl_serve.fitting.reader import Reader, Readers
from ifedicl_serve.fitting.rungs import Rung

RANKS = (8, 1)
RATES = (1e-3, 3e-3, 1e-2)


def tuned_lora(
    source: str,
    data: DataSet,
    parts: Sequence[Rows],
    settings: Settings,
    rank: int,
    rates: Sequence[float],
) -> tuple[dict[str, FloatArray], dict[str, float]]:
    """Test scores [rows, labels] without and with the readout, by what it adds to a name; and what
    a client spends at one learning rate: seconds of a core, and bytes both ways."""
    held_out = [example for rows in parts for example in rows.held_out]
    labels = np.array(data.task.indices(held_out))
    best: tuple[float, dict[str, Any]] | None = None
    started = time.process_time()
    for rate in rates:
        lora, rated = Lora(rate, rank), replace(settings, learning_rate=rate)
        model, parameters = add_adapters(
            open_model(source, Machine("fp32", "cpu")), lora, settings.seed
        )
        for number in range(settings.rounds):
            run_round(model, parameters, data.task, [rows.train for rows in parts], rated, number)
            held = features_of(model, data.task, held_out, None, settings)
            loss = -float(held.log_probs[np.arange(len(labels)), labels].mean())
            if best is None or loss < best[0]:
                kept = {name: value.detach().clone() for name, value in parameters.items()}
                best = loss, {"rate": rate, "round": number + 1, "kept": kept, "held": held}
    seconds = (time.process_time() - started) / len(rates) / len(parts)
    assert best is not None
    chosen = best[1]
    load(parameters, chosen["kept"])
    evaluation = Evaluation(model, data.task, data.test)
    test = evaluation.features(evaluation.texts)
    readout = readout_of(chosen["held"], held_out, data)
    size = sum(value.numel() for value in chosen["kept"].values())
    spent = {
        "rate": chosen["rate"],
        "round": chosen["round"],
        "numbers": size,
        "seconds": round(seconds, 2),
        "bytes": 2 * 4 * size * settings.rounds,
    }
    return {"": test.log_probs, "+bias": read_out(test, readout)}, spent


def readout_of(held: Features, held_out: Sequence[Example], data: DataSet) -> Readout | None:
    """Sharpness and bias from held-out rows, whosever they are."""
    labels = np.array(data.task.indices(held_out))
    readers = Readers({"none": [Reader(held, labels, folds_of([row.text for row in held_out]))]})
    told = readers.statistics(["none"])
    readers.learn(told)
    rung = Rung("none", "bias")
    stack = fit_readouts(readers, [rung], len(data.task.labels))[rung]
    return Readout.of(readout_tensors(told["none"], stack, rung.readout))
