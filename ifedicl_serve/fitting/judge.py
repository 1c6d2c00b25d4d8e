"""Which rung a task gets: what is told of each rung's held-out losses, and the choice.

Every number is a sum over rows, so that clients' add up. Each row was predicted by a readout that
was fitted to other rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ifedicl_serve.contract.readout import log_softmax
from ifedicl_serve.fitting.fit import Stack
from ifedicl_serve.fitting.reader import Read, Reader
from ifedicl_serve.fitting.rungs import ZERO_SHOT, Rung
from ifedicl_serve.fitting.statistics import Doubles

Metrics = dict[str, float]
DIGITS = 6  # kept in artifact and reports
RIGHT, PREDICTED, TRUE = 0, 1, 2  # in the second axis of counts


@dataclass(frozen=True)
class Judgement:
    """Of `rows` rows: losses summed by rung [rungs], products of two rungs' losses [rungs, rungs],
    and how often each label was predicted rightly, predicted, and true [rungs, 3, labels]."""

    rows: int
    losses: Doubles
    products: Doubles
    counts: Doubles

    @classmethod
    def of(cls, log_probs: Sequence[Doubles], labels: npt.NDArray[np.int_]) -> Judgement:
        """From each rung's label log-probabilities [rows, labels]."""
        rows = np.arange(len(labels))
        losses = np.array([-scores[rows, labels] for scores in log_probs])
        counts = [_counts(scores, labels) for scores in log_probs]
        return cls(len(labels), losses.sum(axis=1), losses @ losses.T, np.array(counts))

    def __add__(self, other: Judgement) -> Judgement:
        return Judgement(
            self.rows + other.rows,
            self.losses + other.losses,
            self.products + other.products,
            self.counts + other.counts,
        )

    def metrics(self, rung: int) -> Metrics:
        """Accuracy, mean negative log-probability of the true label, and macro-F1 over the labels
        that occur."""
        right, predicted, true = self.counts[rung]
        occurring = predicted + true > 0
        values = {
            "accuracy": right.sum() / self.rows,
            "log_loss": self.losses[rung] / self.rows,
            "macro_f1": (2 * right[occurring] / (predicted + true)[occurring]).mean(),
        }
        return {name: round(float(value), DIGITS) for name, value in values.items()}

    def excess(self, rung: int, best: int) -> tuple[float, float]:
        """How far a rung's mean loss is above another's, and the standard error of that."""
        n, products = self.rows, self.products
        mean = (self.losses[rung] - self.losses[best]) / n
        square = (products[rung, rung] - 2 * products[rung, best] + products[best, best]) / n
        variance = max(square - mean**2, 0.0) / max(n - 1, 1)
        return float(mean), float(np.sqrt(variance))


class Measured(NamedTuple):
    """Zero-shot and adapted metrics of so many rows; none of none."""

    before: Metrics
    after: Metrics
    rows: int


NOTHING = Measured({}, {}, 0)


def judge_rows(
    reads: Mapping[str, Read], rungs: Sequence[Rung], stacks: Mapping[Rung, Stack]
) -> Judgement:
    """Rows in one place, by fit, under every rung."""
    log_probs = []
    for rung in rungs:
        reader, judged = reads[rung.fit]
        log_probs.append(predicted(reader, stacks.get(rung))[judged])
    reader, judged = reads[rungs[0].fit]
    return Judgement.of(log_probs, reader.labels[judged])


def predicted(reader: Reader, stack: Stack | None) -> Doubles:
    """Label log-probabilities [rows, labels], each row's by what was fitted to others; the model's
    own without a readout."""
    if stack is None:
        return log_softmax(reader.log_probs)
    return reader.out_of_fold(stack.strength, stack.folds)


def with_zero_shot(rungs: Sequence[Rung]) -> Sequence[Rung]:
    """Rungs, and what they are compared with."""
    return rungs if ZERO_SHOT in rungs else (ZERO_SHOT, *rungs)


def measured(judgement: Judgement, compared: Sequence[Rung], rung: Rung) -> Measured:
    """A rung beside zero-shot, both of which were compared."""
    before, after = (judgement.metrics(compared.index(one)) for one in (ZERO_SHOT, rung))
    return Measured(before, after, judgement.rows)


class Trial(NamedTuple):
    """A rung, what held-out rows said of it, and how far it is above the best."""

    rung: Rung
    metrics: Metrics
    excess: float
    standard_error: float


def choose(
    judgement: Judgement, compared: Sequence[Rung], rungs: Sequence[Rung]
) -> tuple[Rung, list[Trial]]:
    """Which of the rungs, the simplest first; and what was said of each that was compared.

    Of rungs that do the same at the sites, and so cost the same to serve, the one of the lowest
    loss; of those, the simplest within one standard error of the best. Held to among readouts, the
    standard error would keep 32 rows at zero-shot (bench/results/trials.md).
    """
    losses = dict(zip(compared, judgement.losses, strict=True))
    best = compared.index(min(rungs, key=losses.__getitem__))
    trials = {
        rung: Trial(rung, judgement.metrics(i), *judgement.excess(i, best))
        for i, rung in enumerate(compared)
    }
    for fit in dict.fromkeys(rung.fit for rung in rungs):
        alike = min((rung for rung in rungs if rung.fit == fit), key=losses.__getitem__)
        if trials[alike].excess <= trials[alike].standard_error:
            return alike, list(trials.values())
    return compared[best], list(trials.values())


def _counts(log_probs: Doubles, labels: npt.NDArray[np.int_]) -> Doubles:
    predicted, k = log_probs.argmax(axis=1), log_probs.shape[1]
    right = labels[predicted == labels]
    return np.array([np.bincount(some, minlength=k) for some in (right, predicted, labels)], float)
