"""What leaves a private client for a readout: bounded row by row, noised as the accountant says,
and of use."""

import dataclasses
import itertools

import dp_accounting as dp
import numpy as np
import pytest
import torch

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.privacy.accountant import (
    GRADIENT_NOISE,
    Releases,
    history,
    new_accountant,
    noise_multiplier,
)
from calibration.privacy.mechanism import clip
from calibration.privacy.readout import (
    COUNT,
    LOG_PROBS,
    ROW_CLIP,
    PrivateReader,
    PrivateReaders,
    PrivateRows,
)
from calibration.readout.noisy import STEPS, NoisySums, class_means, fit_noisy_readout, units
from calibration.settings import Settings
from calibration.stages.read import features_of, read_privately
from calibration.task import TaskDefinition
from ifedicl_serve.contract.readout import Readout, log_softmax, row_scores
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.stack import BIAS, logits
from tests.calibration.privacy.test_calibration import Silent

LABELS, HIDDEN = 3, 8
HEAD = Settings(layers=(0,), fit="head", epsilon=8.0)
BIAS_ONLY = dataclasses.replace(HEAD, fit="bias")
REFERENCE = np.full((1, HIDDEN), 2.0, np.float32)


def drawn(rows: int, seed: int = 0) -> PrivateRows:
    """Hidden states around a mean a label, far from 0 and near to each other, as real ones are;
    log-probabilities that know a little of the label and much of the first one."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, LABELS, rows)
    means = np.random.default_rng(1).normal(size=(LABELS, HIDDEN))
    states = REFERENCE + means[labels] + generator.normal(size=(rows, HIDDEN))
    scores = np.eye(LABELS)[labels] + generator.normal(size=(rows, LABELS)) + [3, 0, 0]
    features = Features(log_softmax(scores).astype(np.float32), states.astype(np.float32))
    uniform = np.full((1, LABELS), -np.log(LABELS), np.float32)
    return PrivateRows(features, labels, Features(uniform, REFERENCE))


def without(rows: PrivateRows, position: int) -> PrivateRows:
    """The same rows but one; how many a client has is public, so it is counted still."""
    kept = np.arange(len(rows.labels)) != position
    features = Features(*(part[kept] for part in rows.features))
    return PrivateRows(features, rows.labels[kept], rows.reference)


def by_label(rows: PrivateRows, with_states: bool = True) -> torch.Tensor:
    return torch.eye(LABELS)[rows.labels].T @ rows.bounded(with_states)


def taught(rows: PrivateRows, settings: Settings, randomness=None) -> PrivateReader:
    reader = PrivateReader(rows, settings, randomness or np.random.default_rng(0))
    reader.learn(reader.statistics())
    return reader


# -- sensitivity


@pytest.mark.parametrize("with_states", [False, True])
def test_leaving_out_a_row_moves_all_sums_by_no_more_than_the_bound(with_states: bool) -> None:
    rows = drawn(40)
    rows.features.hidden[:5] *= 100.0  # far off
    rows.features.log_probs[5] = [-90.0, 0.0, -90.0]
    whole = by_label(rows, with_states)
    moved = [float((whole - by_label(without(rows, i), with_states)).norm()) for i in range(40)]
    assert max(moved) <= ROW_CLIP * (1 + 1e-5)
    assert max(moved) == pytest.approx(ROW_CLIP, rel=1e-5)  # the bound is reached, not loose


def test_no_row_that_a_search_finds_moves_sums_or_gradients_by_more() -> None:
    """Ascent from random rows on what a row moves: hidden state, log-probabilities, label."""
    generator = np.random.default_rng(0)
    reader = taught(drawn(30), HEAD)
    largest = [0.0, 0.0]
    for label, size in itertools.product(range(LABELS), (0.1, 1.0, 10.0, 1e4)):
        for _ in range(50):
            scores = generator.normal(size=(1, LABELS)) * size
            states = REFERENCE + generator.normal(size=(1, HIDDEN)) * size
            features = Features(log_softmax(scores).astype(np.float32), states.astype(np.float32))
            one = PrivateRows(features, np.array([label]), drawn(1).reference)
            worst = PrivateReader(one, HEAD, Silent())
            worst.u, worst.log_probs = reader.u, one.features.log_probs.astype(float)
            worst.scores = generator.normal(size=(1, LABELS)) * size
            theta = generator.normal(size=BIAS + LABELS) * size
            moves = (float(by_label(one).norm()), float(np.linalg.norm(worst.gradient(0, theta))))
            largest = [max(pair) for pair in zip(largest, moves, strict=True)]
    bounds = (ROW_CLIP, HEAD.gradient_clip)
    for found, bound in zip(largest, bounds, strict=True):
        assert found == pytest.approx(bound, rel=1e-5)  # reached, and never beyond


def test_a_row_that_is_not_finite_tells_nothing() -> None:
    rows = drawn(3)
    rows.features.hidden[1] = np.nan
    assert rows.bounded(with_states=True)[1].tolist() == [0.0] * (HIDDEN + LABELS + 1)
    reader = taught(drawn(3), HEAD)
    reader.scores[1] = np.inf
    assert clip(torch.from_numpy(reader.row_gradients(np.ones(BIAS + LABELS))), 1.0)[1].norm() == 0


# -- noise and budget


def test_the_noise_on_sums_is_the_accountants() -> None:
    rows = drawn(50)
    quiet = PrivateReader(rows, HEAD, Silent()).statistics()
    generator = np.random.default_rng(0)
    drawings = [PrivateReader(rows, HEAD, generator).statistics() for _ in range(400)]
    deviation = noise_multiplier(HEAD, 50) * ROW_CLIP
    for name, expected in (
        ("counts", deviation / COUNT),
        ("class_sums", deviation),
        ("log_probs", deviation * LABELS**0.5 / LOG_PROBS),
    ):
        noise = np.array([getattr(one, name) - getattr(quiet, name) for one in drawings])
        assert noise.std() == pytest.approx(expected, rel=0.08), name
        variance = {"counts": 0, "class_sums": 1, "log_probs": 2}[name]
        assert quiet.variances[variance] == pytest.approx(expected**2)


def test_the_noise_on_gradients_is_the_accountants() -> None:
    reader, theta = taught(drawn(50), HEAD), np.ones(BIAS + LABELS)
    drawings = np.array([reader.gradient(0, theta) for _ in range(1000)])
    deviation = GRADIENT_NOISE * noise_multiplier(HEAD, 50) * HEAD.gradient_clip
    assert (drawings - drawings.mean(axis=0)).std() == pytest.approx(deviation, rel=0.05)
    assert reader.statistics().variances[3] == pytest.approx(deviation**2)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"fit": "head"}, Releases(0, 0, 1, STEPS)),
        ({"fit": "bias"}, Releases(0, 0, 1, STEPS)),
        ({"readout": "head"}, Releases(0, 0, 1, STEPS)),
        ({"fit": "coefficients", "readout": "bias"}, Releases(1, 300, 1, STEPS)),
        ({"fit": "channels", "readout": "head"}, Releases(1, 300, 1, STEPS)),
        ({"fit": "channels"}, Releases(1, 300, 0, 0)),
        ({}, Releases(1, 300, 0, 0)),
    ],
)
@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_all_that_a_rung_releases_spends_what_was_asked_for(choice, expected, epsilon) -> None:
    settings = Settings(layers=(0,), epsilon=epsilon, **choice)
    assert Releases.of(settings) == expected
    spent = new_accountant()
    spent.compose(history(noise_multiplier(settings, 64), settings.batch_size / 64, expected))
    assert 0.99 * epsilon < spent.get_epsilon(settings.delta) <= epsilon


def test_what_is_really_drawn_is_what_is_accounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw of noise of a whole fit, composed by hand: (deviation over bound) by release."""
    from calibration.privacy import readout as module

    multipliers = []
    bounds = iter([ROW_CLIP] + [HEAD.gradient_clip] * STEPS)

    def counted(values, deviation, randomness):
        multipliers.append(deviation / next(bounds))
        return values.float()

    monkeypatch.setattr(module, "noised", counted)
    readers = PrivateReaders([PrivateReader(drawn(60), HEAD)])
    told = readers.statistics()
    readers.learn(told)
    fit_noisy_readout(readers, told, "head")
    spent = new_accountant()
    for multiplier in multipliers:
        spent.compose(dp.GaussianDpEvent(multiplier))
    assert len(multipliers) == 1 + STEPS
    assert 0.99 * 8.0 < spent.get_epsilon(HEAD.delta) <= 8.0


# -- what it says


def test_without_bound_and_noise_the_sums_are_those_of_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("calibration.privacy.readout.ROW_CLIP", 1e6)
    rows = drawn(30)
    told = PrivateReader(rows, HEAD, Silent()).statistics()
    members = np.eye(LABELS)[rows.labels]
    size = np.linalg.norm(REFERENCE)
    hidden = rows.features.hidden
    np.testing.assert_allclose(told.counts, members.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        told.class_sums, members.T @ ((hidden - REFERENCE) / size), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(told.log_probs, rows.features.log_probs.sum(axis=0), rtol=1e-4)
    assert told.rows == 30
    np.testing.assert_allclose(told.reference / told.rows, REFERENCE[0])


def test_label_rows_score_by_the_nearest_class_mean() -> None:
    """Of labels with as many rows and no noise: half of the squared distances, scaled."""
    rows = drawn(90)
    sums = dataclasses.replace(
        PrivateReader(rows, HEAD, Silent()).statistics(), variances=np.zeros(4)
    )
    scores = class_means(sums).scores(rows.features.hidden.astype(float))
    means = sums.class_sums / sums.counts[:, None]
    distances = ((rows.distances[:, None] - means) ** 2).sum(axis=2)
    nearest = -distances / 2
    scale = np.polyfit(
        (nearest - nearest.mean(axis=1, keepdims=True)).ravel(),
        (scores - scores.mean(axis=1, keepdims=True)).ravel(),
        1,
    )[0]
    np.testing.assert_allclose(
        scores - scores.mean(axis=1, keepdims=True),
        scale * (nearest - nearest.mean(axis=1, keepdims=True)),
        atol=1e-6,
    )


def test_row_gradients_are_those_of_the_loss_in_its_units() -> None:
    reader = taught(drawn(20), HEAD)
    phi = np.random.default_rng(2).normal(size=BIAS + LABELS)

    def loss(at: np.ndarray) -> float:
        theta = units(LABELS) * at
        log_q = log_softmax(logits(reader.log_probs, reader.scores, reader.u, theta))
        return -log_q[np.arange(20), reader.rows.labels].sum()

    found = reader.row_gradients(units(LABELS) * phi).sum(axis=0)
    step = 1e-5
    for i, along in enumerate(step * np.eye(len(phi))):
        assert found[i] == pytest.approx((loss(phi + along) - loss(phi - along)) / (2 * step), 1e-4)


def losses(settings: Settings, rows: int, seed: int) -> tuple[float, float]:
    """Mean loss on fresh rows, zero-shot and read out by what three private clients told."""
    generator = np.random.default_rng(seed)
    everything = drawn(rows, seed)
    parts = [
        PrivateRows(
            Features(*(f[some] for f in everything.features)),
            everything.labels[some],
            everything.reference,
        )
        for some in np.array_split(np.arange(rows), 3)
    ]
    readers = PrivateReaders([PrivateReader(part, settings, generator) for part in parts])
    told = readers.statistics()
    readers.learn(told)
    kind = "bias" if settings.fit == "bias" else "head"
    readout = Readout.of(fit_noisy_readout(readers, told, kind))
    fresh = drawn(500, seed + 100)
    scores = None
    if readout.label_rows is not None:
        scores = row_scores(torch.from_numpy(fresh.features.hidden), readout.label_rows).numpy()
    own = np.arange(500), fresh.labels
    adapted = readout(fresh.features.log_probs, scores)
    return -fresh.features.log_probs[own].mean(), -adapted[own].mean()


@pytest.mark.parametrize("seed", range(3))
def test_a_private_readout_is_better_than_none_and_a_head_better_than_a_bias(seed: int) -> None:
    zero_shot, bias = losses(BIAS_ONLY, 600, seed)
    _, head = losses(HEAD, 600, seed)
    assert head < 0.9 * bias < 0.81 * zero_shot


def test_what_is_lost_in_noise_leaves_the_model_almost_alone() -> None:
    settings = dataclasses.replace(HEAD, epsilon=0.01)
    zero_shot, head = losses(settings, 30, 0)
    assert head < 1.2 * zero_shot


def test_sums_of_clients_add_up() -> None:
    """Without noise, those of all rows at one client."""
    rows = drawn(30)
    parts = [
        PrivateRows(Features(*(f[some] for f in rows.features)), rows.labels[some], rows.reference)
        for some in (slice(0, 11), slice(11, 30))
    ]
    whole = PrivateReader(rows, HEAD, Silent()).statistics()
    shared = PrivateReaders([PrivateReader(part, HEAD, Silent()) for part in parts]).statistics()
    for name in ("rows", "reference", "counts", "class_sums", "log_probs"):
        np.testing.assert_allclose(
            getattr(shared, name), getattr(whole, name), rtol=1e-4, atol=1e-5
        )
    assert isinstance(shared, NoisySums) and (shared.variances > whole.variances).all()


# -- on the model


def test_private_rows_are_what_the_model_says_of_rows_and_public_texts(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    rows = read_privately(llama, task, examples, None, HEAD)
    features = features_of(llama, task, examples, None, HEAD)
    np.testing.assert_array_equal(rows.features.hidden, features.hidden)
    assert rows.labels.tolist() == task.indices(examples)
    assert rows.reference.hidden.shape == (1, llama.hidden_size)
    other = read_privately(llama, task, examples[:2], None, HEAD)
    np.testing.assert_array_equal(other.reference.hidden, rows.reference.hidden)
