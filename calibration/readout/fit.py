"""A readout from what clients tell: statistics once, then a few small rounds.

The same from any partition of the same rows, as everything told is a sum over rows.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from calibration.readout.directions import STRENGTHS, Directions, directions
from calibration.readout.folds import FOLDS
from calibration.readout.reader import mean_removed
from calibration.readout.stack import BALANCE, BIAS, SHARPNESS, TEMPERATURE, Sums, fit_stacks
from calibration.readout.statistics import Doubles, Statistics, total
from ifedicl_serve.contract.injection import TensorName
from ifedicl_serve.contract.spec import ReadoutKind


class Told(Sums, Protocol):
    """Those who hold the rows: what they add up, and what they are told of all the others'."""

    def statistics(self) -> list[Statistics]: ...

    def learn(self, told: Sequence[Statistics]) -> None: ...


class Stack(NamedTuple):
    """Theta [K + 3] of all rows and of those outside each fold, and the strength of its rows."""

    strength: int
    whole: Doubles
    folds: list[Doubles]


def fit_readout(sums: Sums, labels: int, kind: ReadoutKind) -> Stack:
    """Of kind `bias` or `head`, to rows whose owners have learnt the statistics.

    Label rows that would have to be turned round are left out.
    """
    rows = kind == "head"
    strengths = range(len(STRENGTHS)) if rows else range(1)
    found = fit_stacks(sums, [(strength, None) for strength in strengths], labels, rows)
    strength = int(np.argmin([loss for _, loss in found]))
    whole, _ = found[strength]
    if rows and whole[TEMPERATURE] <= 0:
        return fit_readout(sums, labels, "bias")
    folds = fit_stacks(sums, [(strength, fold) for fold in range(FOLDS)], labels, rows)
    return Stack(strength, whole, [theta for theta, _ in folds])


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
