"""Readouts from what clients tell: statistics once, then a few small rounds for all of them.

The same from any partition of the same rows, as everything told is a sum over rows.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ifedicl_serve.contract.injection import TensorName
from ifedicl_serve.contract.spec import Fit, ReadoutKind
from ifedicl_serve.fitting.directions import STRENGTHS, Directions, directions
from ifedicl_serve.fitting.folds import FOLDS
from ifedicl_serve.fitting.reader import mean_removed
from ifedicl_serve.fitting.rungs import Rung
from ifedicl_serve.fitting.stack import (
    BALANCE,
    BIAS,
    SHARPNESS,
    TEMPERATURE,
    FewerRows,
    Minimum,
    Problem,
    Sums,
    fit_stacks,
    starts,
)
from ifedicl_serve.fitting.statistics import Doubles, Statistics, total


class Told(Sums, Protocol):
    """Those who hold the rows: what they add up, and what they are told of all the others'. By
    fit, and under each by fold."""

    def statistics(self, fits: Sequence[Fit]) -> dict[Fit, list[Statistics]]: ...

    def learn(self, told: Mapping[Fit, Sequence[Statistics]]) -> None: ...


class Stack(NamedTuple):
    """Theta [K + 3] of all rows and of those outside each fold, and the strength of its rows."""

    strength: int
    whole: Doubles
    folds: list[Doubles]


def fit_readouts(sums: Sums, rungs: Sequence[Rung], labels: int) -> dict[Rung, Stack]:
    """Of rungs that have one, to rows whose owners have learnt the statistics.

    Where somebody goes with their rows it begins anew, over those of the others.
    """
    while True:
        try:
            return _fitted(sums, rungs, labels)
        except FewerRows:
            continue


def _fitted(sums: Sums, rungs: Sequence[Rung], labels: int) -> dict[Rung, Stack]:
    problems = list(dict.fromkeys(problem for rung in rungs for problem in _candidates(rung)))
    found = fit_stacks(sums, starts(sums, problems, labels), labels)
    whole = {rung: _best(rung, found) for rung in rungs}
    # What is minimised is convex: without a fold the minimum is near that of all rows.
    near = {part: found[one].theta for one in whole.values() for part in _without_each_fold(one)}
    folds = fit_stacks(sums, near, labels)
    return {
        rung: Stack(
            one.strength, found[one].theta, [folds[p].theta for p in _without_each_fold(one)]
        )
        for rung, one in whole.items()
    }


def _candidates(rung: Rung) -> list[Problem]:
    """The bias, and for a head label rows of every strength."""
    rows = range(len(STRENGTHS)) if rung.readout == "head" else ()
    return [Problem(rung.fit, False), *(Problem(rung.fit, True, strength) for strength in rows)]


def _best(rung: Rung, found: Mapping[Problem, Minimum]) -> Problem:
    """The label rows of the lowest loss; none where they would have to be turned round."""
    bias, *rows = _candidates(rung)
    best = min(rows, key=lambda problem: found[problem].loss, default=bias)
    return best if found[best].theta[TEMPERATURE] > 0 else bias


def _without_each_fold(problem: Problem) -> list[Problem]:
    return [problem._replace(left_out=fold) for fold in range(FOLDS)]


def readout_tensors(
    told: Sequence[Statistics], stack: Stack, kind: ReadoutKind
) -> dict[TensorName, Tensor]:
    """Those of an artifact."""
    everything = total(told)
    found = directions(everything)[stack.strength] if kind == "head" else None
    return tensors_of(stack.whole, mean_removed(everything), found)


def tensors_of(theta: Doubles, u: Doubles, found: Directions | None) -> dict[TensorName, Tensor]:
    """Those of a stack, with label rows along some directions or without."""
    bias = theta[BIAS:] + theta[BALANCE] * u
    tensors: dict[TensorName, Tensor] = {"sharpness": _float(theta[SHARPNESS : SHARPNESS + 1])}
    if found is not None:
        tensors["label_rows"] = _float(theta[TEMPERATURE] * found.rows)
        bias = bias + theta[TEMPERATURE] * found.constants
    return tensors | {"bias": _float(bias - bias.mean())}


def _float(values: Doubles) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
