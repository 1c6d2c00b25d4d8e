"""Metrics against numbers worked by hand."""

import numpy as np
import pytest

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.stages.evaluate import Evaluation, metrics
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import Injection
from ifedicl_serve.contract.readout import log_softmax


def test_metrics_by_hand() -> None:
    log_probs = np.log(np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], dtype=np.float32))
    values = metrics(log_probs, np.array([0, 1, 1]))
    assert values["accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert values["log_loss"] == pytest.approx(-np.log([0.8, 0.4, 0.9]).mean(), abs=1e-6)
    # both classes: precision and recall 1/2 and 1, 1 and 1/2 -> F1 2/3 each
    assert values["macro_f1"] == pytest.approx(2 / 3, abs=1e-6)


def test_a_label_that_no_row_has_is_no_error() -> None:
    assert metrics(np.log(np.array([[0.2, 0.3, 0.5]])), np.array([2]))["accuracy"] == 1


def test_log_softmax_normalises_and_survives_large_values() -> None:
    assert np.exp(log_softmax(np.array([1e4, 1e4 - 1.0]))).sum() == pytest.approx(1)


def test_mean_removed_has_no_mean_left(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    """On the texts it was estimated from, the mean label logit is the same for all labels."""
    evaluation = Evaluation(llama, task, examples)
    zero_shot = evaluation.zero_shot()
    removed = evaluation.mean_removed(zero_shot, evaluation.texts)
    assert np.ptp(removed.mean(axis=0)) < 1e-5 < np.ptp(zero_shot.mean(axis=0))


def test_identity_task_is_zero_shot_exactly(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    import torch

    evaluation = Evaluation(llama, task, examples)
    mask = torch.ones(3, 2, dtype=torch.bool)
    adapted = evaluation.adapted(Injection.identity(3, 64), mask)
    assert np.array_equal(adapted, evaluation.zero_shot())
    assert not np.array_equal(evaluation.few_shot(examples, 2, seed=0), adapted)
