"""Every sign fires on a case made for it, and none on a healthy one."""

import pytest
import torch

from calibration.result.signs import (
    client_signs,
    loss_signs,
    round_signs,
    vector_signs,
)
from calibration.stages.extract import ClientVector
from ifedicl_serve.contract.injection import initial_coefficients
from ifedicl_serve.fitting.signs import benefit_signs

HEALTHY = torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0))
EVERYWHERE = torch.ones(3, 2, dtype=torch.bool)


def test_healthy_vector_has_no_sign() -> None:
    assert vector_signs(HEALTHY, EVERYWHERE) == []


def test_tiny_context_vector() -> None:
    vector = HEALTHY.clone()
    vector[1, 0] *= 1e-6
    (sign,) = vector_signs(vector, EVERYWHERE)
    assert "tiny" in sign and "at layer 1 attn:" in sign


def test_near_uniform_context_vector() -> None:
    vector = HEALTHY.clone()
    vector[2, 1] = 3 + 0.01 * vector[2, 1]
    (sign,) = vector_signs(vector, EVERYWHERE)
    assert "near uniform" in sign and "at layer 2 mlp:" in sign


def test_sites_that_are_not_adapted_are_not_judged() -> None:
    mask = torch.zeros(3, 2, dtype=torch.bool)
    assert vector_signs(torch.zeros(3, 2, 64), mask) == []


def test_client_with_one_class() -> None:
    mixed = ClientVector(HEALTHY, 4, {"a": 2, "b": 2})
    single = ClientVector(HEALTHY, 4, {"a": 0, "b": 4})
    (sign,) = client_signs({0: mixed, 4: single})
    assert "client 4 are labelled 'b'" in sign


def test_coefficients_diverging_between_clients() -> None:
    start = initial_coefficients(3, range(3), ("attn", "mlp"))
    history = torch.stack([start, start])
    assert round_signs("coefficients", history, {0: start, 1: start + 0.1}) == []
    (sign,) = round_signs("coefficients", history, {0: start, 1: start, 4: start + 3})
    assert "coefficients of client 4 are 2.00 away" in sign


def test_coefficients_diverging_between_rounds() -> None:
    start = initial_coefficients(3, range(3), ("attn", "mlp"))
    settling = torch.stack([start, start + 0.5, start + 0.7])
    assert round_signs("coefficients", settling, {0: settling[-1]}) == []
    running = torch.stack([start, start + 0.5, start + 3])
    (sign,) = round_signs("coefficients", running, {0: running[-1]})
    assert "round 2: coefficients moved 2.50, 0.50 the round before" in sign


def test_coefficients_out_of_all_proportion() -> None:
    start = initial_coefficients(3, range(3), ("attn", "mlp"))
    history = torch.stack([start, start])
    history[1, 0, 0, 0] = -20
    (sign,) = round_signs("coefficients", history, {0: history[1]})
    assert "coefficients reached 20.0" in sign


@pytest.mark.parametrize(
    ("losses", "count"),
    [([[[4, 3, 2, 1]]], 0), ([[[1, 1, 1, 1]]], 1), ([[[1], [4]], [[2], [3]]], 1)],
)
def test_loss_not_falling(losses: list, count: int) -> None:
    """By client, over all rounds: the second case stands still, in the third it rises."""
    signs = loss_signs("coefficients", losses, [4])
    assert len(signs) == count
    assert all("loss of client 4 did not fall" in sign for sign in signs)


def test_no_benefit_on_held_out_rows() -> None:
    before = {"accuracy": 0.5, "log_loss": 1.0}
    assert benefit_signs(before, {"accuracy": 0.6, "log_loss": 0.9}) == []
    signs = benefit_signs(before, {"accuracy": 0.5, "log_loss": 1.1})
    assert "accuracy 0.500 is not above zero-shot 0.500" in signs[0]
    assert "log-loss 1.100 is not below zero-shot 1.000" in signs[1]
