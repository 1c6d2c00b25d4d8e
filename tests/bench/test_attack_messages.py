"""What the attackers are given is what calibration sends, on made-up rows."""

import dataclasses

import numpy as np
import pytest
import torch

from bench.attack import ATTACKS, KINDS, headline, reading
from bench.federation.attack_messages import Channels, LabelRows, Rows, received
from calibration.privacy.readout import COUNT, PrivateReader, PrivateRows
from calibration.settings import Settings
from ifedicl_serve.contract.readout import log_softmax
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.folds import FOLDS
from ifedicl_serve.fitting.statistics import Statistics

HIDDEN, LABELS, COUNT_ROWS = 6, 3, 12
HEAD = Settings(layers=(0,), fit="head")
CHANNELS = Settings(layers=(0,), fit="channels")
PRIVATE_HEAD, PRIVATE_CHANNELS = (dataclasses.replace(one, epsilon=8.0) for one in (HEAD, CHANNELS))


@pytest.fixture
def rows() -> Rows:
    generator = np.random.default_rng(0)
    states = (1 + generator.normal(size=(COUNT_ROWS, HIDDEN))).astype(np.float32)
    scores = log_softmax(generator.normal(size=(COUNT_ROWS, LABELS))).astype(np.float32)
    reference = Features(scores[:1], np.ones((1, HIDDEN), np.float32))
    read = PrivateRows(Features(scores, states), np.arange(COUNT_ROWS) % LABELS, reference)
    gradients = torch.from_numpy(generator.normal(size=(COUNT_ROWS, 2, 2, HIDDEN))).float()
    folds = np.arange(COUNT_ROWS) // 3 % FOLDS
    return Rows(torch.zeros(COUNT_ROWS, 1, 2, 2), read, folds, gradients, np.zeros((12, 4)))


class Silent(np.random.Generator):
    """Draws no noise, and of every step all rows."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, size):  # type: ignore[override]
        return np.zeros(size)

    def binomial(self, n, p, size):  # type: ignore[override]
        return np.full(size, n * p)


def test_exact_label_rows_are_the_sums_that_a_client_tells(rows: Rows) -> None:
    """And the sum of a label with one row in a fold is that row's last hidden state."""
    everyone = [np.arange(COUNT_ROWS)]
    message = LabelRows(HEAD)
    (sent,) = received(message, message.added(rows), everyone, Silent())
    cells = COUNT_ROWS * sent.reshape(LABELS, FOLDS, HIDDEN + 1)
    hidden, size = rows.read.features.hidden, HIDDEN**0.5
    for fold in range(FOLDS):
        some = rows.folds == fold
        features = Features(*(part[some] for part in rows.read.features))
        told = Statistics.of(features, rows.labels[some])
        np.testing.assert_allclose(cells[:, fold, -1] / COUNT, told.counts, atol=1e-5)
        states = size * cells[:, fold, :-1] + told.counts[:, None]
        np.testing.assert_allclose(states, told.class_sums, atol=1e-5)
    alone = np.flatnonzero((rows.labels == 1) & (rows.folds == 2))
    assert len(alone) == 1
    np.testing.assert_allclose(size * cells[1, 2, :-1] + 1, hidden[alone[0]], atol=1e-5)


def test_private_label_rows_are_the_sums_that_a_private_client_tells(rows: Rows) -> None:
    message = LabelRows(PRIVATE_HEAD)
    everyone = [np.arange(COUNT_ROWS)]
    (sent,) = received(message, message.added(rows), everyone, Silent())
    cells = COUNT_ROWS * sent.reshape(LABELS, HIDDEN + LABELS + 1)
    told = PrivateReader(rows.read, PRIVATE_HEAD, Silent()).statistics()
    np.testing.assert_allclose(cells[:, :HIDDEN], told.class_sums, atol=1e-5)
    np.testing.assert_allclose(cells[:, -1] / COUNT, told.counts, atol=1e-5)
    deviation = message.deviation(COUNT_ROWS) * COUNT_ROWS
    assert deviation**2 == pytest.approx(told.variances[1], rel=1e-6)


def test_updates_of_channels_are_means_of_gradients_clipped_if_private(rows: Rows) -> None:
    everyone = [np.arange(COUNT_ROWS)]
    exact, private = Channels(CHANNELS), Channels(PRIVATE_CHANNELS)
    (sent,) = received(exact, exact.added(rows), everyone, Silent())
    np.testing.assert_allclose(sent, rows.gradients.mean(dim=0).flatten(), rtol=1e-5)
    (sent,) = received(private, private.added(rows), everyone, Silent())
    flat = rows.gradients.flatten(1)
    clipped = flat / flat.norm(dim=1, keepdim=True).clamp_min(1.0)
    np.testing.assert_allclose(sent, clipped.mean(dim=0), rtol=1e-4, atol=1e-6)
    assert exact.deviation(12) == 0 < private.deviation(12)


def test_the_headline_and_the_reading_have_every_kind() -> None:
    scores = {key: [0.5] for attack in ATTACKS for key in (attack, f"{attack}_chance")}
    ways = ("exact", "epsilon 8", "epsilon 1")
    runs = {f"{kind}, {way}": {"1": scores, "64": scores} for kind in KINDS for way in ways}
    results = {"subj": runs}
    assert len(headline(results)) == len(ATTACKS) * len(KINDS) * 4
    assert all(what in reading(results) for what in KINDS.values())
