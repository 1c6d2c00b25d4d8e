"""A readout from sums with noise in them: label rows at class means, and a fixed number of steps.

What private clients tell (`calibration.privacy.readout`) has no second moments, which would take
noise on the square of a hidden size of numbers, no folds and no losses. So label rows point at the
class means, and the K + 3 numbers of `stack` are found by steps along gradients, as long as the
number of rows says. It looks at nothing but what was told. Measured in bench/results/trials.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Protocol

import numpy as np
from torch import Tensor

from ifedicl_serve.contract.injection import TensorName
from ifedicl_serve.contract.spec import ReadoutKind
from ifedicl_serve.fitting.directions import Directions
from ifedicl_serve.fitting.fit import tensors_of
from ifedicl_serve.fitting.reader import mean_removed
from ifedicl_serve.fitting.stack import TEMPERATURE, Prior
from ifedicl_serve.fitting.statistics import Doubles, Totals

NOISES = COUNT, STATE, LOG_PROBS, GRADIENT = 0, 1, 2, 3  # positions in `NoisySums.variances`
STEPS = 8
CURVATURE = 0.4  # of a row's loss along one of the numbers, in their units
UNITS = (0.25, 0.5, 0.5, 1.0)  # of sharpness, temperature, balance and a bias: gradients are alike
SPREAD = 0.1  # the mean square of a class mean's distance from the centre, typically


@dataclass(frozen=True)
class NoisySums(Totals):
    """Of some rows: how many there are, and times that the public state [hidden] that their last
    hidden states are told as distances from, in units of its norm; by label, counts [labels] and
    summed distances [labels, hidden] (of no width where no label rows are fitted); their summed
    label log-probabilities [labels]; and the variance [4] of each of NOISES: that on a count, on a
    number of the summed distances, of the log-probabilities, and of a gradient. Of several clients
    all of it adds up."""

    rows: float
    reference: Doubles
    counts: Doubles
    class_sums: Doubles
    log_probs: Doubles
    variances: Doubles


class NoisyTold(Protocol):
    """Private clients: what they add up, and what they are told of all the others'."""

    def statistics(self) -> NoisySums: ...

    def learn(self, told: NoisySums) -> None: ...

    def gradient(self, step: int, theta: Doubles) -> Doubles:
        """Of all rows' loss by theta [K + 3] in its `units`, as the step's answer."""
        ...


def class_means(told: NoisySums) -> Directions:
    """Label rows at each label's mean less the mean of all, as much shortened as it is likely to be
    noise, in units in which SPREAD is 1."""
    counts = np.clip(told.counts, 1.0, told.rows)[:, None]
    centre = told.class_sums.sum(axis=0) / told.rows
    labels, hidden = told.class_sums.shape
    noise = hidden * told.variances[STATE] * (1 / counts**2 + labels / told.rows**2)
    means = (told.class_sums / counts - centre) * SPREAD / (SPREAD + noise)
    rows = means / SPREAD
    reference = told.reference / told.rows
    size = np.linalg.norm(reference)
    constants = -rows @ (reference / size + centre) - (rows * means).sum(axis=1) / 2
    return Directions(rows / size, constants)


def unbalance(told: NoisySums) -> Doubles:
    """Minus the mean log-probability of each label [labels], around 0; shortened likewise, as they
    are about 1 apart."""
    return mean_removed(told) / (1 + told.variances[LOG_PROBS] / told.rows**2)


def units(labels: int) -> Doubles:
    """Of theta [K + 3]."""
    *scalars, bias = UNITS
    return np.r_[scalars, np.full(labels, bias)]


def descend(readers: NoisyTold, told: NoisySums, with_rows: bool) -> Doubles:
    """Theta [K + 3], from the prior's mean on, after STEPS gradients of all rows.

    The prior is stronger by as much as noise makes gradients weaker: what is lost in noise stays
    where it began.
    """
    prior, unit = Prior(len(told.counts), with_rows), units(len(told.counts))
    curvature = CURVATURE * told.rows
    precision = prior.precision * unit**2 * (1 + told.variances[GRADIENT] / STEPS / curvature)
    theta = prior.mean
    for step in range(STEPS):
        slope = readers.gradient(step, theta) + precision * (theta - prior.mean) / unit
        theta = theta - unit * slope / (curvature + precision)
        theta[TEMPERATURE] = max(theta[TEMPERATURE], 0.0)  # label rows are not turned round
    return theta


def fit_noisy_readout(
    readers: NoisyTold, told: NoisySums, kind: ReadoutKind
) -> dict[TensorName, Tensor]:
    """The tensors of a readout of kind `bias` or `head`, whose clients have learnt the sums."""
    theta = descend(readers, told, kind == "head")
    return tensors_of(theta, unbalance(told), class_means(told) if kind == "head" else None)


def noisy_added(clients: Sequence[NoisySums]) -> NoisySums:
    """All clients'."""
    return reduce(add, clients).rounded()
