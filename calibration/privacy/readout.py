"""What a private client tells of its rows for a readout: sums of bounded rows once, then sums of
their bounded gradients.

    sums[label] = sum over the label's rows of clip([(h - r) / |r|, LOG_PROBS (a - a_r), COUNT])

h is a row's last hidden state, a its label log-probabilities; r and a_r are those of public texts.
A row adds to its own label's sum alone, so zeroing it out moves all of them, as one vector, by at
most ROW_CLIP in L2; and a gradient by at most `settings.gradient_clip`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibration.ladder import private_rung
from calibration.privacy.accountant import GRADIENT_NOISE, noise_multiplier
from calibration.privacy.mechanism import SYSTEM, Randomness, clip, noised
from calibration.readout.noisy import NoisySums, class_means, noisy_added, unbalance, units
from calibration.settings import Settings
from ifedicl_serve.contract.readout import log_softmax
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.stack import logits
from ifedicl_serve.fitting.statistics import Doubles

# Public constants. A row of subj, emotion, ag_news or banking77 is 1.2 to 2.7 long before it is
# clipped; a count weighs as much as keeps those of rare labels apart from noise.
ROW_CLIP = 1.0
LOG_PROBS, COUNT = 0.1, 0.5


class PrivateRows(NamedTuple):
    """A client's rows: their features, labels [rows], and the mean features of public texts."""

    features: Features
    labels: npt.NDArray[np.int_]
    reference: Features

    @property
    def distances(self) -> Doubles:
        """Of last hidden states from the reference's, in units of its norm, [rows, hidden]."""
        reference = self.reference.hidden.astype(float)
        return (self.features.hidden - reference) / np.linalg.norm(reference)

    def bounded(self, with_states: bool) -> Tensor:
        """What each row adds to the sums of its label, [rows, hidden + labels + 1]; without states
        [rows, labels + 1]."""
        log_probs = self.features.log_probs - self.reference.log_probs.astype(float)
        parts = [LOG_PROBS * log_probs, np.full((len(log_probs), 1), COUNT)]
        if with_states:
            parts = [self.distances, *parts]
        return clip(torch.from_numpy(np.hstack(parts)), ROW_CLIP)


class PrivateReader:
    """Rows of a private client, under one injection."""

    def __init__(
        self, rows: PrivateRows, settings: Settings, randomness: Randomness = SYSTEM
    ) -> None:
        self.rows, self.randomness = rows, randomness
        self.with_states = private_rung(settings).readout == "head"
        multiplier = noise_multiplier(settings, len(rows.labels))
        self.deviation = multiplier * ROW_CLIP
        self.gradient_clip = settings.gradient_clip
        self.gradient_deviation = GRADIENT_NOISE * multiplier * self.gradient_clip
        self.log_probs = rows.features.log_probs.astype(float)
        self.scores = np.zeros_like(self.log_probs)
        self.u = np.zeros(self.log_probs.shape[1])

    def statistics(self) -> NoisySums:
        """Of all rows, in one release."""
        rows, labels = self.log_probs.shape
        members = torch.eye(labels)[self.rows.labels]
        sums = members.T @ self.rows.bounded(self.with_states)
        noisy = noised(sums, self.deviation, self.randomness).double().numpy()
        states, log_probs, counts = np.split(noisy, [-1 - labels, -1], axis=1)
        reference = self.rows.reference
        deviations = (
            self.deviation / COUNT,
            self.deviation,
            self.deviation * labels**0.5 / LOG_PROBS,
            self.gradient_deviation,
        )
        return NoisySums(
            rows=float(rows),
            reference=rows * reference.hidden[0].astype(float),
            counts=counts[:, 0] / COUNT,
            class_sums=states,
            log_probs=log_probs.sum(axis=0) / LOG_PROBS + rows * reference.log_probs[0],
            variances=np.square(deviations),
        ).rounded()

    def learn(self, told: NoisySums) -> None:
        """Score every row by the class means of all clients."""
        self.u = unbalance(told)
        if self.with_states:
            self.scores = class_means(told).scores(self.rows.features.hidden.astype(float))

    def gradient(self, step: int, theta: Doubles) -> Doubles:
        """Of the summed negative log-likelihood by theta in its units, [K + 3]."""
        bounded = clip(torch.from_numpy(self.row_gradients(theta)), self.gradient_clip)
        noisy = noised(bounded.sum(dim=0), self.gradient_deviation, self.randomness)
        return noisy.double().numpy()

    def row_gradients(self, theta: Doubles) -> Doubles:
        """Each row's, [rows, K + 3], before it is bounded."""
        labels = len(self.u)
        q = np.exp(log_softmax(logits(self.log_probs, self.scores, self.u, theta)))
        residual = q - np.eye(labels)[self.rows.labels]
        along = [(residual * part).sum(axis=1) for part in (self.log_probs, self.scores, self.u)]
        return np.column_stack([*along, residual]) * units(labels)


class PrivateReaders:
    """Several private clients in this process, added up."""

    def __init__(self, readers: Sequence[PrivateReader]) -> None:
        self.readers = readers

    def statistics(self) -> NoisySums:
        """Of all clients."""
        return noisy_added([reader.statistics() for reader in self.readers])

    def learn(self, told: NoisySums) -> None:
        for reader in self.readers:
            reader.learn(told)

    def gradient(self, step: int, theta: Doubles) -> Doubles:
        return np.sum([reader.gradient(step, theta) for reader in self.readers], axis=0)
