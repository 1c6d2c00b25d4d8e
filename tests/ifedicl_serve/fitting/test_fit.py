"""Readouts from sums: the closed form against scikit-learn, Newton against L-BFGS, and what few or
odd rows do."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ifedicl_serve.contract.readout import Readout, log_softmax, row_scores
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.fitting import directions as closed_form
from ifedicl_serve.fitting.directions import STRENGTHS, directions
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.fit import Stack, fit_readouts, readout_tensors
from ifedicl_serve.fitting.folds import FOLDS, folds_of
from ifedicl_serve.fitting.reader import Reader, Readers
from ifedicl_serve.fitting.rungs import Rung
from ifedicl_serve.fitting.stack import (
    BIAS,
    Asked,
    Curvature,
    FewerRows,
    Prior,
    Problem,
    curvature,
    fit_stacks,
    logits,
    starts,
)
from ifedicl_serve.fitting.statistics import Statistics, block_size, total

LABELS, HIDDEN = 3, 8


def drawn(rows: int, seed: int = 0, hidden: int = HIDDEN) -> tuple[Features, np.ndarray]:
    """Hidden states around a mean a label; log-probabilities that know a little of it."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, LABELS, rows)
    means = np.random.default_rng(1).normal(size=(LABELS, hidden))
    states = means[labels] + generator.normal(size=(rows, hidden))
    scores = np.eye(LABELS)[labels] + generator.normal(size=(rows, LABELS))
    return Features(log_softmax(scores).astype(np.float32), states.astype(np.float32)), labels


def reader(rows: int, seed: int = 0) -> Reader:
    features, labels = drawn(rows, seed)
    return Reader(features, labels, np.arange(rows) % FOLDS)


def readers(*parts: Reader) -> tuple[Readers, list[Statistics]]:
    """Clients that have learnt each other's statistics."""
    together = Readers({"none": parts})
    told = together.statistics(["none"])
    together.learn(told)
    return together, told["none"]


def fitted(together: Readers, kind) -> Stack:
    rung = Rung("none", kind)
    return fit_readouts(together, [rung], LABELS)[rung]


def split(whole: Reader, *parts: np.ndarray) -> list[Reader]:
    return [
        Reader(Features(*(f[part] for f in whole.features)), whole.labels[part], whole.folds[part])
        for part in parts
    ]


# -- statistics


def test_statistics_add_up_and_leave_out():
    features, labels = drawn(20)
    whole = Statistics.of(features, labels)
    parts = [
        Statistics.of(Features(*(f[some] for f in features)), labels[some])
        for some in (slice(0, 7), slice(7, 20))
    ]
    for name in ("counts", "class_sums", "second", "log_probs"):
        np.testing.assert_allclose(getattr(total(parts), name), getattr(whole, name), atol=1e-9)
        left = getattr(whole - parts[0], name)
        np.testing.assert_allclose(left, getattr(parts[1], name), atol=1e-9)
    assert whole.rows == 20
    np.testing.assert_allclose(whole.second[0], features.hidden.T @ features.hidden, rtol=1e-5)


def test_second_moments_are_blocks_along_the_diagonal():
    assert [block_size(size) for size in (16, 96, 256, 4096, 2304)] == [16, 48, 64, 64, 64]
    features, labels = drawn(10, hidden=512)
    told = Statistics.of(features, labels)
    assert told.second.shape == (8, 64, 64)
    corner = features.hidden[:, 64:128].astype(np.float64)
    np.testing.assert_allclose(told.second[1], corner.T @ corner)
    assert all(np.isfinite(found.rows).all() for found in directions(told))


def test_a_client_without_rows_tells_of_none():
    nothing = Statistics.of(
        Features(np.zeros((0, LABELS)), np.zeros((0, HIDDEN))), np.zeros(0, int)
    )
    assert nothing.rows == 0
    assert nothing.second.shape == (1, HIDDEN, HIDDEN)


# -- directions


def test_without_shrinkage_they_are_fishers_discriminants(monkeypatch: pytest.MonkeyPatch):
    """scikit-learn's, whose covariance has the same divisor: its scores differ by the log-priors
    and by what is the same for all labels."""
    monkeypatch.setattr(closed_form, "STRENGTHS", (0.0,))
    monkeypatch.setattr(closed_form, "KAPPA", 0.0)
    features, labels = drawn(400)
    (found,) = directions(Statistics.of(features, labels))
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(features.hidden, labels)
    expected = theirs.decision_function(features.hidden) - np.log(theirs.priors_)
    ours = found.scores(features.hidden.astype(np.float64))
    np.testing.assert_allclose(
        ours - ours.mean(axis=1, keepdims=True),
        expected - expected.mean(axis=1, keepdims=True),
        atol=1e-3,
    )


def test_with_much_shrinkage_they_point_at_the_means():
    features, labels = drawn(50)
    weak, strong = (directions(Statistics.of(features, labels))[i] for i in (0, -1))
    means = np.array([features.hidden[labels == label].mean(axis=0) for label in range(LABELS)])
    towards = means - features.hidden.mean(axis=0)
    cosines = (strong.rows * towards).sum(axis=1)
    cosines /= np.linalg.norm(strong.rows, axis=1) * np.linalg.norm(towards, axis=1)
    assert (cosines > 0.999).all()
    assert np.linalg.norm(strong.rows) < np.linalg.norm(weak.rows)


def test_a_label_without_rows_has_no_direction():
    features, labels = drawn(12)
    kept = labels != 2
    told = Statistics.of(Features(*(f[kept] for f in features)), labels[kept])
    assert all((found.rows[2] == 0).all() and found.constants[2] == 0 for found in directions(told))


# -- the stack


def test_derivatives_are_those_of_the_loss():
    features, labels = drawn(30)
    log_probs, scores = features.log_probs.astype(float), features.hidden[:, :LABELS].astype(float)
    u, theta = np.array([0.3, -0.1, -0.2]), np.array([0.8, 0.4, 0.5, 0.1, -0.2, 0.3])

    def loss(at: np.ndarray) -> float:
        log_q = log_softmax(logits(log_probs, scores, u, at))
        return -log_q[np.arange(30), labels].sum()

    at = curvature(log_probs, scores, u, labels, theta)
    assert at.loss == pytest.approx(loss(theta))
    step = 1e-4
    for i in range(len(theta)):
        along = step * np.eye(len(theta))[i]
        assert at.gradient[i] == pytest.approx(
            (loss(theta + along) - loss(theta - along)) / (2 * step), rel=1e-4, abs=1e-5
        )
        ahead = curvature(log_probs, scores, u, labels, theta + along).gradient
        behind = curvature(log_probs, scores, u, labels, theta - along).gradient
        np.testing.assert_allclose(at.hessian[i], (ahead - behind) / (2 * step), atol=1e-4)


@pytest.mark.parametrize("rows", [False, True], ids=["bias", "head"])
def test_newton_arrives_where_l_bfgs_does(rows: bool):
    together, _ = readers(reader(60))
    problem = Problem("none", rows, strength=2)
    found = fit_stacks(together, starts(together, [problem], LABELS), LABELS)[problem]
    assert found.loss == pytest.approx(l_bfgs(together, problem), abs=1e-4)
    assert rows == (abs(found.theta[1]) > 1e-3)


def l_bfgs(together: Readers, problem: Problem) -> float:
    """The least penalised loss."""
    prior = Prior(LABELS, problem.label_rows)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        (there,) = together.curvatures([problem.at(theta)])
        gradient = there.gradient + prior.precision * (theta - prior.mean)
        return prior.added(theta, there.loss), gradient

    return minimize(objective, prior.grid()[0], jac=True, method="L-BFGS-B", tol=1e-12).fun


@pytest.mark.parametrize("rows", [12, 60, 200])
def test_without_a_fold_newton_arrives_there_from_what_all_rows_say(rows: int):
    """Whatever was seen of the fold's own rows is forgotten on the way."""
    together, _ = readers(reader(rows, seed=rows))
    stack = fitted(together, "head")
    prior = Prior(LABELS, label_rows=True)
    for fold, theta in enumerate(stack.folds):
        problem = Problem("none", True, stack.strength, fold)
        (there,) = together.curvatures([problem.at(theta)])
        assert prior.added(theta, there.loss) == pytest.approx(l_bfgs(together, problem), abs=1e-4)


def test_a_fold_left_out_is_not_looked_at():
    one = reader(40)
    together, _ = readers(one)
    before = together.losses([Asked("none", 0, 3, np.ones(BIAS + LABELS))])
    one.labels = np.where(one.folds == 3, (one.labels + 1) % LABELS, one.labels)
    assert together.losses([Asked("none", 0, 3, np.ones(BIAS + LABELS))]) == before


# -- the whole readout


@pytest.mark.parametrize("kind", ["bias", "head"])
def test_the_artifacts_tensors_say_what_was_fitted(kind):
    one = reader(60)
    together, told = readers(one)
    stack = fitted(together, kind)
    tensors = readout_tensors(told, stack, kind)
    readout = Readout.of(tensors)
    hidden = one.features.hidden
    rows = None
    if kind == "head":
        rows = row_scores(torch.from_numpy(hidden), readout.label_rows).numpy()
    found = directions(total(told))[stack.strength]
    u = -one.log_probs.mean(axis=0)
    scores = found.scores(hidden.astype(float))
    expected = log_softmax(logits(one.log_probs, scores, u - u.mean(), stack.whole))
    np.testing.assert_allclose(readout(one.features.log_probs, rows), expected, atol=1e-4)


def test_a_head_knows_more_than_a_bias_and_of_rows_it_did_not_see():
    one = reader(200)
    together, _ = readers(one)
    losses = {}
    for kind in ("bias", "head"):
        stack = fitted(together, kind)
        log_probs = one.out_of_fold(stack.strength, stack.folds)
        losses[kind] = -log_probs[np.arange(200), one.labels].mean()
    assert losses["head"] < 0.5 * losses["bias"]


def test_the_partition_does_not_matter():
    whole = reader(90)
    by_label = [np.flatnonzero(whole.labels == label) for label in range(LABELS)]
    thirds = np.array_split(np.random.default_rng(3).permutation(90), 3)
    found = []
    for parts in ([np.arange(90)], by_label, thirds):
        together, told = readers(*split(whole, *parts))
        found.append(readout_tensors(told, fitted(together, "head"), "head"))
    for other in found[1:]:
        for name, tensor in found[0].items():
            np.testing.assert_allclose(other[name].numpy(), tensor.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 0], [2], [0, 1, 2, 0, 1, 2, 1]])
def test_of_few_rows_it_is_finite_and_close_to_what_the_model_says(labels: list[int]):
    features, _ = drawn(len(labels))
    one = Reader(features, np.array(labels), np.arange(len(labels)) % FOLDS)
    together, told = readers(one)
    for kind in ("bias", "head"):
        stack = fitted(together, kind)
        tensors = readout_tensors(told, stack, kind)
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        assert 0 < tensors["sharpness"].item() < 3


def test_rows_all_in_one_fold_are_fitted_to_too():
    features, labels = drawn(20)
    together, told = readers(Reader(features, labels, np.zeros(20, dtype=int)))
    stack = fitted(together, "head")
    assert all(t.isfinite().all() for t in readout_tensors(told, stack, "head").values())


class Counted(Readers):
    """How often sums were asked for; in the round `lost` the last client goes."""

    rounds, lost = 0, 0

    def losses(self, asked: Sequence[Asked]) -> list[float]:
        self._round()
        return super().losses(asked)

    def curvatures(self, asked: Sequence[Asked]) -> list[Curvature]:
        self._round()
        return super().curvatures(asked)

    def _round(self) -> None:
        self.rounds += 1
        if self.rounds == self.lost:
            self.readers = {fit: readers[:-1] for fit, readers in self.readers.items()}
            raise FewerRows


def two_fits() -> dict[Fit, list[Reader]]:
    """Two clients' rows under two fits, that have learnt."""
    parts = {"none": [reader(50), reader(40, 1)], "channels": [reader(50, 2), reader(40, 3)]}
    together = Readers(parts)
    together.learn(together.statistics(list(parts)))
    return parts


RUNGS = [Rung(fit, kind) for fit in ("none", "channels") for kind in ("bias", "head")]


def equal(one: Stack, other: Stack) -> bool:
    thetas = zip([one.whole, *one.folds], [other.whole, *other.folds], strict=True)
    return one.strength == other.strength and all(np.array_equal(*pair) for pair in thetas)


def test_readouts_that_are_fitted_together_are_those_that_are_fitted_alone():
    """Bit for bit, in as many rounds as the longest takes."""
    parts = two_fits()
    together = Counted(parts)
    stacks = fit_readouts(together, RUNGS, LABELS)
    rounds = []
    for rung in RUNGS:
        alone = Counted(parts)
        assert equal(stacks[rung], fit_readouts(alone, [rung], LABELS)[rung])
        rounds.append(alone.rounds)
    assert together.rounds < sum(rounds) / 2


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_if_a_client_goes_amid_the_rounds_they_begin_anew_with_the_others(lost: int):
    parts = two_fits()
    together = Counted(parts)
    together.lost = lost
    stacks = fit_readouts(together, RUNGS, LABELS)
    others = Readers({fit: readers[:-1] for fit, readers in parts.items()})
    expected = fit_readouts(others, RUNGS, LABELS)
    assert all(equal(stacks[rung], expected[rung]) for rung in RUNGS)


def test_label_rows_that_would_be_turned_round_are_left_out():
    one = reader(60)
    together, _ = readers(one)
    one.scores = -one.scores
    stacks = fit_readouts(together, RUNGS[:2], LABELS)
    assert equal(*stacks.values())


def test_the_fold_of_a_row_is_its_texts():
    texts = [f"text {number}" for number in range(500)]
    folds = folds_of(texts)
    assert (folds_of(texts[::-1]) == folds[::-1]).all()
    assert np.bincount(folds, minlength=FOLDS).min() > 70
    assert len(STRENGTHS) == len(Reader(*drawn(3), np.arange(3)).scores)
