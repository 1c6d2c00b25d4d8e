"""A readout from rows that lie in one place: every rung that adapts no token, and the choice."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ifedicl_serve.contract.injection import TensorName
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.fit import fit_readouts, readout_tensors
from ifedicl_serve.fitting.folds import folds_of
from ifedicl_serve.fitting.judge import (
    Measured,
    Trial,
    choose,
    judge_rows,
    measured,
    predicted,
    with_zero_shot,
)
from ifedicl_serve.fitting.reader import Read, Reader, Readers
from ifedicl_serve.fitting.rungs import Rung
from ifedicl_serve.fitting.statistics import Doubles


class FittedTask(NamedTuple):
    """The rung that was chosen and its tensors, what was said of each rung, and the chosen one's
    label log-probabilities [rows, labels], each row's by what was fitted to others."""

    rung: Rung
    tensors: Mapping[TensorName, Tensor]
    trials: Sequence[Trial]
    measured: Measured
    log_probs: Doubles


def fit_task(
    texts: Sequence[str],
    features: Features,
    labels: npt.NDArray[np.int_],
    rungs: Sequence[Rung],
) -> FittedTask:
    """Fit to rows with these texts, features and labels [rows] the best of some `BARE_RUNGS`.

    Texts only say which rows are judged together.
    """
    reader = Reader(features, labels, folds_of(texts))
    readers = Readers({"none": [reader]})
    told = readers.statistics(["none"])
    readers.learn(told)
    with_readout = [rung for rung in rungs if rung.readout != "none"]
    stacks = fit_readouts(readers, with_readout, features.log_probs.shape[1])
    compared = with_zero_shot(rungs)
    reads = {"none": Read(reader, np.ones(len(labels), dtype=bool))}
    judgement = judge_rows(reads, compared, stacks)
    rung, trials = choose(judgement, compared, rungs)
    stack = stacks.get(rung)
    return FittedTask(
        rung,
        {} if stack is None else readout_tensors(told["none"], stack, rung.readout),
        trials,
        measured(judgement, compared, rung),
        predicted(reader, stack),
    )
