"""What is said of examples, from numbers made by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from api.making.report import MOST, report_of
from ifedicl_serve.contract.readout import log_softmax
from ifedicl_serve.fitting.judge import Judgement, measured
from ifedicl_serve.fitting.rungs import BARE_RUNGS, ZERO_SHOT
from ifedicl_serve.fitting.task import FittedTask

NAMES = ["a", "b", "c"]
HEAD = BARE_RUNGS[2]


def report(truth, probabilities, folds=None):
    """Of examples with these labels, predicted so; in turn in the folds unless those are given."""
    folds = np.arange(len(truth)) % 5 if folds is None else np.array(folds)
    truth, log_probs = np.array(truth), np.log(np.array(probabilities, dtype=float))
    judgement = Judgement.of([log_softmax(np.zeros_like(log_probs)), log_probs], truth)
    told = measured(judgement, [ZERO_SHOT, HEAD], HEAD)
    labels = [SimpleNamespace(name=name) for name in NAMES]
    draft = SimpleNamespace(
        labels=truth, folds=folds, spec=SimpleNamespace(labels=labels), warnings=["few"]
    )
    return report_of(draft, FittedTask(HEAD, {"bias": None}, [], told, log_probs))


def test_by_hand():
    told = report(
        [0, 0, 1, 1, 2, 2],
        [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.96, 0.02, 0.02],
         [0.1, 0.1, 0.8], [0.98, 0.01, 0.01]],
    )  # fmt: skip
    of = {one.label: (one.examples, one.recall, one.precision) for one in told.labels}
    assert of == {
        "a": (2, 0.5, pytest.approx(1 / 3, abs=1e-6)),
        "b": (2, 0.5, 0.5),
        "c": (2, 0.5, 1),
    }
    assert told.adapted.accuracy == 0.5
    assert told.adapted.log_loss == pytest.approx(
        -np.log([0.8, 0.3, 0.8, 0.02, 0.8, 0.01]).mean(), abs=1e-6
    )
    assert told.zero_shot.log_loss == pytest.approx(np.log(3), abs=1e-6)
    assert told.guessing.accuracy == pytest.approx(1 / 3, abs=1e-6)
    assert told.guessing.log_loss == pytest.approx(np.log(3), abs=1e-6)
    assert {(one.label, one.predicted, one.examples) for one in told.confused} == {
        ("a", "b", 1), ("b", "a", 1), ("c", "a", 1),
    }  # fmt: skip
    assert [(one.index, one.label, one.predicted) for one in told.suspects] == [
        (5, "c", "a"),
        (3, "b", "a"),
    ]
    assert told.suspects[0].loss == pytest.approx(-np.log(0.01), abs=1e-6)
    assert told.warnings[0] == "few"
    assert "held-out log-loss" in told.warnings[1]


def test_a_label_that_is_never_given_has_no_precision_and_the_worst_come_first():
    sure = [[0.9999, 0.00005, 0.00005]] * 60
    told = report([0] * 30 + [1] * 20 + [2] * 10, sure)
    assert [one.precision for one in told.labels] == [0.5, None, None]
    assert [(one.label, one.examples) for one in told.confused] == [("b", 20), ("c", 10)]
    assert len(told.suspects) == MOST


def test_a_label_in_one_fold_is_warned_of_and_its_examples_are_no_suspects():
    wrong = [[0.98, 0.01, 0.01]] * 6
    told = report([0, 0, 1, 1, 2, 2], wrong, folds=[0, 1, 2, 3, 4, 4])
    assert {one.index for one in told.suspects} == {2, 3}
    assert told.warnings[1].startswith("'c': all examples of such a label fell into one part")
