"""Those who hold the rows: a client's features of its own, and what it tells of them."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ifedicl_serve.contract.readout import log_softmax
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.fitting.directions import STRENGTHS, directions
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.folds import FOLDS
from ifedicl_serve.fitting.stack import Asked, Curvature, Doubles, curvature, logits
from ifedicl_serve.fitting.statistics import Statistics, total


class Reader:
    """Rows of a client, under one injection: their features, labels [rows] and folds [rows]."""

    def __init__(
        self, features: Features, labels: npt.NDArray[np.int_], folds: npt.NDArray[np.int_]
    ) -> None:
        self.features, self.labels, self.folds = features, labels, folds
        self.log_probs = features.log_probs.astype(np.float64)
        self.scores = np.zeros((len(STRENGTHS), *self.log_probs.shape))
        self.u = np.zeros(self.log_probs.shape[1])

    def statistics(self) -> list[Statistics]:
        """By fold."""
        by_fold = (
            Statistics.of(self._only(self.folds == f), self._labels(f)) for f in range(FOLDS)
        )
        return [part.rounded() for part in by_fold]

    def learn(self, told: Sequence[Statistics]) -> None:
        """Score every row by directions of the other folds, from all clients' statistics."""
        whole = total(told)
        self.u = mean_removed(whole)
        hidden = self.features.hidden.astype(np.float64)
        for fold, part in enumerate(told):
            members = self.folds == fold
            for scores, found in zip(self.scores, directions(whole - part), strict=True):
                scores[members] = found.scores(hidden[members])

    def loss(self, asked: Asked) -> float:
        """The summed negative log-likelihood."""
        log_probs, scores, u, labels = self._rows(asked)
        log_q = log_softmax(logits(log_probs, scores, u, asked.theta))
        return float(-log_q[np.arange(len(labels)), labels].sum())

    def curvature(self, asked: Asked) -> Curvature:
        """The same with derivatives."""
        return curvature(*self._rows(asked), asked.theta)

    def out_of_fold(self, strength: int, thetas: Sequence[Doubles]) -> npt.NDArray[np.float64]:
        """Label log-probabilities [rows, labels], each row's by the theta of its fold, which was
        fitted to the others."""
        theta = np.array(thetas)[self.folds]  # [rows, K + 3]
        return log_softmax(logits(self.log_probs, self.scores[strength], self.u, theta))

    def _rows(self, asked: Asked) -> tuple[Doubles, Doubles, Doubles, npt.NDArray[np.int_]]:
        kept = self.folds != (-1 if asked.left_out is None else asked.left_out)
        return self.log_probs[kept], self.scores[asked.strength][kept], self.u, self.labels[kept]

    def _only(self, kept: npt.NDArray[np.bool_]) -> Features:
        return Features(*(part[kept] for part in self.features))

    def _labels(self, fold: int) -> npt.NDArray[np.int_]:
        return self.labels[self.folds == fold]


class Read(NamedTuple):
    """A client's reader of a fit, and which of its rows [rows] rungs are judged by."""

    reader: Reader
    judged: npt.NDArray[np.bool_]


class LogProbs(Protocol):
    """How many rows there are, and their summed label log-probabilities [labels]."""

    @property
    def rows(self) -> float: ...

    @property
    def log_probs(self) -> Doubles: ...


def mean_removed(whole: LogProbs) -> Doubles:
    """Minus the mean log-probability of each label [labels], around 0."""
    u = -whole.log_probs / max(whole.rows, 1.0)
    return u - u.mean()


class Readers:
    """Several clients in this process, added up; by fit."""

    def __init__(self, readers: Mapping[Fit, Sequence[Reader]]) -> None:
        self.readers = readers

    def statistics(self, fits: Sequence[Fit]) -> dict[Fit, list[Statistics]]:
        """By fold."""
        return {fit: added([one.statistics() for one in self.readers[fit]]) for fit in fits}

    def learn(self, told: Mapping[Fit, Sequence[Statistics]]) -> None:
        for fit, statistics in told.items():
            for reader in self.readers[fit]:
                reader.learn(statistics)

    def losses(self, asked: Sequence[Asked]) -> list[float]:
        return [sum(reader.loss(one) for reader in self.readers[one.fit]) for one in asked]

    def curvatures(self, asked: Sequence[Asked]) -> list[Curvature]:
        return [
            reduce(Curvature.plus, (reader.curvature(one) for reader in self.readers[one.fit]))
            for one in asked
        ]


def added(clients: Sequence[Sequence[Statistics]]) -> list[Statistics]:
    """All clients', by fold."""
    return [total(parts).rounded() for parts in zip(*clients, strict=True)]


def losses_added(clients: Sequence[Sequence[float]]) -> list[float]:
    """All clients', for each that was asked for."""
    return [sum(losses) for losses in zip(*clients, strict=True)]


def curvatures_added(clients: Sequence[Sequence[Curvature]]) -> list[Curvature]:
    """All clients', for each that was asked for."""
    return [reduce(Curvature.plus, parts) for parts in zip(*clients, strict=True)]
