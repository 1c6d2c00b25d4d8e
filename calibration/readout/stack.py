"""How much of what a readout has: the K + 3 numbers of

    logits = sharpness * log_probs + temperature * scores + balance * u + bias

`scores` are of the directions, out of fold; u is minus the mean log-probability of a label, so
`balance` 1 removes what the model says on average (contextual calibration, arXiv 2102.09690).
They minimise the negative log-likelihood and a normal prior on each, by Newton's method on sums
over rows, which clients add up: every call of `Sums` is one small round of a federation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from calibration.readout.statistics import Doubles
from ifedicl_serve.contract.readout import log_softmax

SHARPNESS, TEMPERATURE, BALANCE, BIAS = 0, 1, 2, 3  # positions; the biases are last
# Means and precisions of the priors, by bench/results/trials.md: weak enough for 320 rows, and
# what a task of 32 keeps to. The mean of `balance` leaves half of what the model says on average.
MEANS, PRECISIONS = (1.0, 1.0, 0.5), (3.0, 10.0, 3.0)
BIAS_PRECISION = 3.0
ABSENT = 1e12  # precision of a number that is to stay at 0
STARTS = [
    (sharpness, temperature, balance)
    for sharpness in (0.1, 0.3, 1.0)
    for temperature in (0.03, 0.1, 0.3, 1.0)
    for balance in (0.0, 0.5)
]
STEPS = (1.0, 0.5, 0.2)
ROUNDS, TOLERANCE = 12, 1e-7


class Asked(NamedTuple):
    """Sums over the rows outside a fold (None: over all), with the scores of a strength."""

    strength: int
    left_out: int | None
    theta: Doubles


class Curvature(NamedTuple):
    """A loss and its first and second derivatives [K + 3] and [K + 3, K + 3]."""

    loss: float
    gradient: Doubles
    hessian: Doubles

    def plus(self, other: Curvature) -> Curvature:
        """Of the rows of both."""
        return Curvature(
            self.loss + other.loss, self.gradient + other.gradient, self.hessian + other.hessian
        )


class Sums(Protocol):
    """What those who hold the rows add up."""

    def losses(self, asked: Sequence[Asked]) -> list[float]: ...

    def curvatures(self, asked: Sequence[Asked]) -> list[Curvature]: ...


def logits(log_probs: Doubles, scores: Doubles, u: Doubles, theta: Doubles) -> Doubles:
    """[rows, labels] under theta [K + 3], or [rows, K + 3] for every row its own."""
    sharpness, temperature, balance = (theta[..., i, None] for i in (0, 1, 2))
    return sharpness * log_probs + temperature * scores + balance * u + theta[..., BIAS:]


def curvature(
    log_probs: Doubles,
    scores: Doubles,
    u: Doubles,
    labels: npt.NDArray[np.int_],
    theta: Doubles,
) -> Curvature:
    """Of the summed negative log-likelihood of `labels` [rows]."""
    k = len(u)
    log_q = log_softmax(logits(log_probs, scores, u, theta))
    q = np.exp(log_q)
    residual = q - np.eye(k)[labels]
    features = (log_probs, scores, np.broadcast_to(u, log_probs.shape))
    gradient = [(residual * feature).sum() for feature in features]
    hessian = np.zeros((BIAS + k, BIAS + k))
    for i, feature in enumerate(features):
        weighed = q * (feature - (q * feature).sum(axis=1, keepdims=True))
        hessian[i, :BIAS] = [(weighed * other).sum() for other in features]
        hessian[i, BIAS:] = hessian[BIAS:, i] = weighed.sum(axis=0)
    hessian[BIAS:, BIAS:] = np.diag(q.sum(axis=0)) - q.T @ q
    loss = -log_q[np.arange(len(labels)), labels].sum()
    return Curvature(float(loss), np.r_[gradient, residual.sum(axis=0)], hessian)


def fit_stacks(
    sums: Sums, problems: Sequence[tuple[int, int | None]], labels: int, rows: bool
) -> list[tuple[Doubles, float]]:
    """Theta and its penalised loss for every (strength, fold left out), all in the same rounds.

    Without `rows` the temperature stays 0.
    """
    prior = Prior(labels, rows)
    starts = prior.starts()
    asked = [Asked(*problem, start) for problem in problems for start in starts]
    losses = [prior.added(a.theta, loss) for a, loss in zip(asked, sums.losses(asked), strict=True)]
    best = np.reshape(losses, (len(problems), len(starts))).argmin(axis=1)
    thetas = [starts[i] for i in best]
    at = sums.curvatures([Asked(*p, theta) for p, theta in zip(problems, thetas, strict=True)])
    moving = set(range(len(problems)))
    for _ in range(ROUNDS):
        steps = {}
        for i in sorted(moving):
            steps[i], decrement = prior.step(thetas[i], at[i])
            if decrement < TOLERANCE * max(at[i].loss, 1):
                moving.discard(i)
        if not moving:
            break
        order = sorted(moving)
        asked = [Asked(*problems[i], thetas[i] - s * steps[i]) for i in order for s in STEPS]
        found = iter(zip(asked, sums.curvatures(asked), strict=True))
        for i in order:
            tried = [next(found) for _ in STEPS]
            one, there = min(tried, key=lambda pair: prior.added(pair[0].theta, pair[1].loss))
            if prior.added(one.theta, there.loss) >= prior.added(thetas[i], at[i].loss):
                moving.discard(i)
            else:
                thetas[i], at[i] = one.theta, there
    return [
        (theta, prior.added(theta, there.loss)) for theta, there in zip(thetas, at, strict=True)
    ]


class Prior:
    """Independent normal priors on theta."""

    def __init__(self, labels: int, rows: bool) -> None:
        means, precisions = list(MEANS), list(PRECISIONS)
        if not rows:
            means[TEMPERATURE], precisions[TEMPERATURE] = 0.0, ABSENT
        self.rows = rows
        self.mean = np.r_[means, np.zeros(labels)]
        self.precision = np.r_[precisions, np.full(labels, BIAS_PRECISION)]

    def starts(self) -> list[Doubles]:
        """A grid to begin from: directions of few rows can be a thousand times too long."""
        biases = np.zeros(len(self.mean) - BIAS)
        grid = STARTS if self.rows else sorted({(s, 0.0, b) for s, _, b in STARTS})
        return [np.r_[start, biases] for start in grid]

    def added(self, theta: Doubles, loss: float) -> float:
        """The loss with its penalty."""
        return loss + 0.5 * float((self.precision * (theta - self.mean) ** 2).sum())

    def step(self, theta: Doubles, at: Curvature) -> tuple[Doubles, float]:
        """Newton's step, to be subtracted, and how much it promises."""
        gradient = at.gradient + self.precision * (theta - self.mean)
        step = np.linalg.solve(at.hessian + np.diag(self.precision), gradient)
        return step, float(gradient @ step)
