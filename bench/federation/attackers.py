"""What somebody who has the base model can work out from a client's vector; numpy only.

The attacker makes clients of its own from public texts of the same task and learns from them.
`Inversion` regresses labels and words on vectors; `Membership` asks how much more likely a
vector is if a given example stands behind it. Rows are activations as relative distances from
the task's reference, `[rows, features]`; nothing here knows how they were computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int_]

CONCENTRATION = 0.5  # of the Dirichlet distribution of a client's labels
ALPHAS = np.logspace(-2, 5, 8)
TOP = 10


def draw_client(labels: Ints, count: int, generator: np.random.Generator) -> Ints:
    """Positions of `count` different examples whose labels follow a random mix."""
    mix = generator.dirichlet(np.full(labels.max() + 1, CONCENTRATION))
    wanted = generator.multinomial(count, mix)
    return np.concatenate(
        [
            generator.choice(np.flatnonzero(labels == label), number, replace=False)
            for label, number in enumerate(wanted)
        ]
    )


def draw_strangers(labels: Ints, members: Ints, generator: np.random.Generator) -> Ints:
    """For each member another example of its label that is no member: labels give nothing away."""
    strangers = []
    free = np.setdiff1d(np.arange(len(labels)), members)
    for label, number in enumerate(np.bincount(labels[members])):
        strangers.append(generator.choice(free[labels[free] == label], number, replace=False))
    return np.concatenate(strangers)


@dataclass(frozen=True)
class Facts:
    """Of every client: the share of each label, and of examples that hold each word."""

    labels: Floats  # [clients, labels]
    words: Floats  # [clients, vocabulary]


class Inversion:
    """Ridge regression from vectors to facts, its strength chosen by cross-validation: one for
    all labels, and one for all words, so that rare words are not each fitted to noise."""

    def __init__(self, vectors: Floats, facts: Facts) -> None:
        self.labels = RidgeCV(ALPHAS).fit(vectors, facts.labels)
        self.words = RidgeCV(ALPHAS).fit(vectors, facts.words)
        self.prior = Facts(facts.labels.mean(axis=0), facts.words.mean(axis=0))

    def recovered(self, vectors: Floats) -> Facts:
        """The facts read from vectors."""
        return Facts(self.labels.predict(vectors), self.words.predict(vectors))

    def guessed(self, clients: int) -> Facts:
        """What the attacker says without vectors: the mean over its own clients."""
        return Facts(
            np.tile(self.prior.labels, (clients, 1)), np.tile(self.prior.words, (clients, 1))
        )


class Membership:
    """Log-likelihood ratio between normal distributions: with a candidate in the mean, or not.

    The covariance of examples is shrunk (Ledoit and Wolf) and kept as directions and a rest.
    """

    def __init__(self, rows: Floats, candidates: Floats) -> None:
        self.mean = rows.mean(axis=0)
        centred = rows - self.mean
        shrinkage = ledoit_wolf_shrinkage(centred, assume_centered=True)
        _, singular, self.basis = np.linalg.svd(centred, full_matrices=False)
        variances = singular**2 / len(rows)
        self.rest = max(shrinkage * variances.sum() / rows.shape[1], 1e-12)
        self.variances = (1 - shrinkage) * variances + self.rest
        self.candidates = candidates - self.mean
        self.along = self.candidates @ self.basis.T

    def scores(self, vector: Floats, positions: Ints, count: int, deviation: float) -> Floats:
        """One score for each of the candidates at `positions`; above 0 speaks for membership in
        a mean over `count` examples with noise of `deviation`."""
        inside = 1 / (self.variances / count + deviation**2)
        outside = 1 / (self.rest / count + deviation**2)
        steps, along = self.candidates[positions] / count, self.along[positions] / count
        seen = vector - self.mean

        def product(others: Floats, along_others: Floats) -> Floats:
            in_basis = (along * along_others) @ (inside - outside)
            return in_basis + outside * (steps * others).sum(axis=-1)

        return product(seen, self.basis @ seen) - product(steps, along) / 2


def majority_accuracy(found: Facts, truth: Facts) -> float:
    """How often a client's commonest label is named; of equally common ones any will do."""
    named = truth.labels[np.arange(len(truth.labels)), found.labels.argmax(axis=1)]
    return float((named == truth.labels.max(axis=1)).mean())


def word_auc(found: Facts, truth: Facts) -> float:
    """How well, word by word, clients that have it are ranked above those that have not (Mann
    and Whitney's statistic), mean over the words that some have and some have not."""
    occurs = truth.words > 0
    having = occurs.sum(axis=0)
    lacking = len(occurs) - having
    ranks = np.where(occurs, rankdata(found.words, axis=0), 0).sum(axis=0)
    told = (having > 0) & (lacking > 0)
    above = ranks - having * (having + 1) / 2
    return float((above[told] / (having * lacking)[told]).mean())


def top_words(found: Facts, truth: Facts) -> float:
    """How many of the ten words named first occur at the client, mean over clients."""
    best = np.argsort(-found.words, axis=1)[:, :TOP]
    return float((np.take_along_axis(truth.words, best, axis=1) > 0).mean())


def membership_auc(scores: Sequence[Floats], strangers: Sequence[Floats]) -> float:
    """How well members are ranked above strangers, over all clients."""
    values = np.concatenate([*scores, *strangers])
    members = np.repeat([True, False], [sum(map(len, scores)), sum(map(len, strangers))])
    return float(roc_auc_score(members, values))
