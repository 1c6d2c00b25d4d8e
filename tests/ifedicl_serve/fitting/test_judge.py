"""What is said of rungs, and which is chosen."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from ifedicl_serve.contract.readout import log_softmax
from ifedicl_serve.fitting.judge import Judgement, choose
from ifedicl_serve.fitting.rungs import BARE_RUNGS, ZERO_SHOT, Rung

LABELS = np.array([0, 1, 2, 1, 0, 2, 1, 1])


def drawn(rungs: int, rows: int = 8, seed: int = 0) -> list[np.ndarray]:
    return list(log_softmax(np.random.default_rng(seed).normal(size=(rungs, rows, 3))))


def test_metrics_are_scikit_learns():
    scores = drawn(2)
    judgement = Judgement.of(scores, LABELS)
    for i, log_probs in enumerate(scores):
        predicted = log_probs.argmax(axis=1)
        assert judgement.metrics(i) == pytest.approx(
            {
                "accuracy": accuracy_score(LABELS, predicted),
                "log_loss": log_loss(LABELS, np.exp(log_probs)),
                "macro_f1": f1_score(LABELS, predicted, average="macro", zero_division=0.0),
            },
            abs=1e-6,
        )


def test_judgements_of_clients_add_up():
    scores = drawn(3)
    parts = [
        Judgement.of([one[some] for one in scores], LABELS[some])
        for some in (slice(0, 3), slice(3, 3), slice(3, 8))
    ]
    together, whole = parts[0] + parts[1] + parts[2], Judgement.of(scores, LABELS)
    assert together.rows == whole.rows == 8
    for name in ("losses", "products", "counts"):
        np.testing.assert_allclose(getattr(together, name), getattr(whole, name))


def test_the_excess_is_that_of_paired_differences():
    scores = drawn(2)
    losses = [-one[np.arange(8), LABELS] for one in scores]
    difference = losses[1] - losses[0]
    mean, error = Judgement.of(scores, LABELS).excess(1, 0)
    assert mean == pytest.approx(difference.mean())
    assert error == pytest.approx(difference.std(ddof=1) / np.sqrt(8))


def judged(*losses: list[float]) -> Judgement:
    """Of two labels, the first always true, with these losses by rung and row."""
    right = -np.array(losses)
    scores = np.stack([right, np.log1p(-np.exp(right))], axis=-1)
    return Judgement.of(list(scores), np.zeros(len(losses[0]), dtype=int))


BIASED = BARE_RUNGS[1]
COEFFICIENTS, CHANNELS = Rung("coefficients", "none"), Rung("channels", "none")


def test_the_simplest_within_a_standard_error_is_chosen():
    rungs = [BIASED, CHANNELS]
    noisy = judged([0.6, 0.2, 0.9, 0.3], [0.2, 0.7, 0.3, 0.6])
    assert choose(noisy, rungs, rungs)[0] == BIASED
    clear = judged([0.6, 0.7, 0.6, 0.7], [0.2, 0.3, 0.2, 0.2])
    assert choose(clear, rungs, rungs)[0] == CHANNELS


def test_of_readouts_alone_the_lowest_loss_is_chosen():
    rungs = [ZERO_SHOT, BIASED]
    noisy = judged([0.6, 0.2, 0.9, 0.3], [0.59, 0.3, 0.2, 0.6])
    rung, trials = choose(noisy, rungs, rungs)
    assert rung == BIASED
    assert trials[0].excess <= trials[0].standard_error


def test_what_is_only_compared_with_is_never_chosen():
    better = judged([0.1, 0.1], [0.6, 0.7])
    rung, trials = choose(better, [ZERO_SHOT, COEFFICIENTS], [COEFFICIENTS])
    assert rung == COEFFICIENTS
    assert trials[0].excess == pytest.approx(-0.55)
