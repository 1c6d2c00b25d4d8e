"""How much of what a readout has: the K + 3 numbers of

    logits = sharpness * log_probs + temperature * scores + balance * u + bias

`scores` are of the directions, out of fold; u is minus the mean log-probability of a label, so
`balance` 1 removes what the model says on average (contextual calibration, arXiv 2102.09690).
They minimise the negative log-likelihood and a normal prior on each, by Newton's method on sums
over rows, which clients add up: every call of `Sums` is one small round of a federation, so
whatever is fitted is fitted in the same rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ifedicl_serve.contract.readout import log_softmax
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.fitting.statistics import Doubles

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
    """Sums over the rows outside a fold (None: over all) as they were read under a fit, with the
    scores of a strength."""

    fit: Fit
    strength: int
    left_out: int | None
    theta: Doubles


class Problem(NamedTuple):
    """A theta to find, for the rows of an `Asked`. Without `label_rows` its temperature stays 0."""

    fit: Fit
    label_rows: bool
    strength: int = 0
    left_out: int | None = None

    def at(self, theta: Doubles) -> Asked:
        """What is to be added up for it there."""
        return Asked(self.fit, self.strength, self.left_out, theta)


class Minimum(NamedTuple):
    """Theta [K + 3] and its penalised loss."""

    theta: Doubles
    loss: float


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


class FewerRows(Exception):
    """Somebody has gone with rows that earlier sums were over."""


class Sums(Protocol):
    """What those who hold the rows add up, always over the same; else they raise FewerRows."""

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


def starts(sums: Sums, problems: Sequence[Problem], labels: int) -> dict[Problem, Doubles]:
    """For every problem the best of a grid: directions of few rows can be a thousand times too
    long."""
    priors = {problem: Prior(labels, problem.label_rows) for problem in problems}
    tried = [(problem, theta) for problem in problems for theta in priors[problem].grid()]
    losses = sums.losses([problem.at(theta) for problem, theta in tried])
    best: dict[Problem, Minimum] = {}
    for (problem, theta), loss in zip(tried, losses, strict=True):
        there = Minimum(theta, priors[problem].added(theta, loss))
        best[problem] = min(best.get(problem, there), there, key=lambda one: one.loss)
    return {problem: one.theta for problem, one in best.items()}


def fit_stacks(sums: Sums, begun: Mapping[Problem, Doubles], labels: int) -> dict[Problem, Minimum]:
    """Solve every problem from a theta on."""
    priors = {problem: Prior(labels, problem.label_rows) for problem in begun}
    thetas = dict(begun)
    found = sums.curvatures([problem.at(theta) for problem, theta in thetas.items()])
    at = dict(zip(thetas, found, strict=True))
    moving = list(thetas)
    for _ in range(ROUNDS):
        steps = {problem: priors[problem].step(thetas[problem], at[problem]) for problem in moving}
        moving = [one for one in moving if steps[one].promise >= TOLERANCE * max(at[one].loss, 1)]
        if not moving:
            break
        asked = [one.at(thetas[one] - size * steps[one].step) for one in moving for size in STEPS]
        answers = iter(zip(asked, sums.curvatures(asked), strict=True))
        for problem in list(moving):
            prior, tried = priors[problem], [next(answers) for _ in STEPS]
            one, there = min(tried, key=lambda pair: prior.added(pair[0].theta, pair[1].loss))
            if prior.added(one.theta, there.loss) >= prior.added(thetas[problem], at[problem].loss):
                moving.remove(problem)
            else:
                thetas[problem], at[problem] = one.theta, there
    return {
        problem: Minimum(theta, priors[problem].added(theta, at[problem].loss))
        for problem, theta in thetas.items()
    }


class Step(NamedTuple):
    """What is to be subtracted from a theta, and how much that promises."""

    step: Doubles
    promise: float


class Prior:
    """Independent normal priors on theta."""

    def __init__(self, labels: int, label_rows: bool) -> None:
        means, precisions = list(MEANS), list(PRECISIONS)
        if not label_rows:
            means[TEMPERATURE], precisions[TEMPERATURE] = 0.0, ABSENT
        self.label_rows = label_rows
        self.mean = np.r_[means, np.zeros(labels)]
        self.precision = np.r_[precisions, np.full(labels, BIAS_PRECISION)]

    def grid(self) -> list[Doubles]:
        """Where a search may begin."""
        biases = np.zeros(len(self.mean) - BIAS)
        grid = STARTS if self.label_rows else sorted({(s, 0.0, b) for s, _, b in STARTS})
        return [np.r_[start, biases] for start in grid]

    def added(self, theta: Doubles, loss: float) -> float:
        """The loss with its penalty."""
        return loss + 0.5 * float((self.precision * (theta - self.mean) ** 2).sum())

    def step(self, theta: Doubles, at: Curvature) -> Step:
        """Newton's."""
        gradient = at.gradient + self.precision * (theta - self.mean)
        step = np.linalg.solve(at.hessian + np.diag(self.precision), gradient)
        return Step(step, float(gradient @ step))
