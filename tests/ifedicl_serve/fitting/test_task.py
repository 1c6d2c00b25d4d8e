"""A readout from rows in one place: which rung, and what is said of it and of every row."""

import numpy as np
import pytest
import torch

from ifedicl_serve.contract.readout import Readout, log_softmax, row_scores
from ifedicl_serve.fitting.rungs import BARE_RUNGS, ZERO_SHOT
from ifedicl_serve.fitting.task import fit_task
from tests.ifedicl_serve.fitting.test_fit import LABELS, drawn

HEAD = BARE_RUNGS[2]


def fitted(rows: int, rungs=BARE_RUNGS, seed: int = 0):
    features, labels = drawn(rows, seed)
    texts = [f"text {row}" for row in range(rows)]
    return fit_task(texts, features, labels, rungs), features, labels


def test_the_chosen_rung_serves_better_than_zero_shot_on_rows_it_did_not_see():
    done, _, _ = fitted(200)
    assert done.rung == HEAD
    assert set(done.tensors) == {"bias", "label_rows", "sharpness"}
    unseen, truth = drawn(500, seed=9)
    readout = Readout.of(done.tensors)
    scores = row_scores(torch.from_numpy(unseen.hidden), readout.label_rows).numpy()
    rows = np.arange(500)
    served = -readout(unseen.log_probs, scores)[rows, truth].mean()
    assert served < -log_softmax(unseen.log_probs.astype(float))[rows, truth].mean()
    assert served == pytest.approx(done.measured.after["log_loss"], abs=0.15)


def test_what_is_said_of_rows_is_what_the_measurements_are_of():
    done, _, labels = fitted(60)
    losses = -done.log_probs[np.arange(60), labels]
    assert losses.mean() == pytest.approx(done.measured.after["log_loss"], abs=1e-6)
    assert done.log_probs.shape == (60, LABELS)
    assert np.exp(done.log_probs).sum(axis=1) == pytest.approx(1)
    assert [trial.rung for trial in done.trials] == list(BARE_RUNGS)


def test_a_rung_that_was_asked_for_is_fitted_whatever_is_said_of_it():
    for rung in BARE_RUNGS[1:]:
        done, _, _ = fitted(12, rungs=[rung])
        assert done.rung == rung
        assert [trial.rung for trial in done.trials] == [ZERO_SHOT, rung]
