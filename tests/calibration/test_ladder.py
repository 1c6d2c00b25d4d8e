"""Which rungs are tried, and which is chosen."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from calibration.ladder import LADDER, ZERO_SHOT, Rung, rungs_of, tried
from calibration.settings import Settings
from calibration.stages.judge import Judgement, choose
from ifedicl_serve.contract.readout import log_softmax
from ifedicl_serve.errors import DataError

LABELS = np.array([0, 1, 2, 1, 0, 2, 1, 1])


def names(rungs) -> list[str]:
    return [rung.name for rung in rungs]


def settings(**changes) -> Settings:
    return Settings(layers=(0,), **changes)


@pytest.mark.parametrize(
    ("fit", "readout", "expected"),
    [
        ("auto", "auto", names(LADDER)),
        ("auto", "none", ["zero-shot", "coefficients", "channels"]),
        ("auto", "bias", ["bias", "coefficients+bias", "channels+bias"]),
        ("bias", "auto", ["bias"]),
        ("head", "head", ["head"]),
        ("coefficients", "none", ["coefficients"]),
        ("channels", "auto", ["channels", "channels+bias", "channels+head"]),
    ],
)
def test_rungs_that_are_asked_for(fit, readout, expected):
    assert names(rungs_of(fit, readout)) == expected
    assert names(tried(settings(fit=fit, readout=readout), held_out=100)) == expected


def test_a_readout_cannot_be_another_one():
    with pytest.raises(DataError, match="fit 'bias' is a readout by itself, so readout 'head' con"):
        settings(fit="bias", readout="head")


@pytest.mark.parametrize(
    ("asked", "held_out", "expected"),
    [
        ({}, 31, ["zero-shot", "bias", "head"]),
        ({}, 0, ["zero-shot", "bias", "head"]),
        ({"fit": "channels"}, 1, ["channels", "channels+bias", "channels+head"]),
        ({"fit": "channels"}, 0, ["channels"]),
        ({"fit": "channels", "readout": "bias"}, 0, ["channels+bias"]),
        ({"fit": "head"}, 0, ["head"]),
        ({"epsilon": 8.0}, 0, ["coefficients"]),
        ({"epsilon": 8.0, "fit": "channels"}, 0, ["channels"]),
    ],
)
def test_few_rows_tell_few_rungs_apart(asked, held_out, expected):
    assert names(tried(settings(**asked), held_out)) == expected


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


BIASED, COEFFICIENTS, CHANNELS = Rung("none", "bias"), Rung("coefficients", "none"), LADDER[6]


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
