"""A scale and a shift a channel under differential privacy: clipped example by example, as the
paper's coefficients are."""

import dataclasses

import pytest
import torch

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel, Noise
from calibration.model.loss import label_targets
from calibration.model.objective import Objective, example_gradients
from calibration.model.sites import first_values, injection_of
from calibration.settings import Settings
from calibration.stages.fit import fit_round
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import adapted_mask

SETTINGS = Settings(layers=(1, 2), fit="channels", rounds=1, local_steps=2, noise=0.0, epsilon=8.0)


@pytest.fixture
def vector() -> torch.Tensor:
    return torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0))


def test_example_gradients_are_autograds_one_by_one(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], vector: torch.Tensor
) -> None:
    mask = adapted_mask(3, SETTINGS.layers, SETTINGS.sites)
    values = first_values("channels", vector, SETTINGS)
    targets = label_targets(llama, task, examples, "restricted")
    no_noise = Noise(0.0, torch.Generator())
    loss_of = Objective(llama, targets, injection_of("channels", vector), values, mask, no_noise)
    ((_, rows),) = example_gradients(loss_of, [0, 5, 7], values[mask])
    assert rows.shape == (3, 4, 2, 64)  # [examples, sites, scale and shift, hidden]
    for row, position in zip(rows, [0, 5, 7], strict=True):
        adapted = values[mask].requires_grad_()
        _, alone = loss_of.gradient([position], adapted)
        torch.testing.assert_close(row, alone, rtol=1e-3, atol=1e-5)


def test_a_private_client_fits_channels_and_tells_no_loss(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], vector: torch.Tensor
) -> None:
    start = first_values("channels", vector, SETTINGS)
    ends = [
        fit_round(llama, task, examples, "channels", vector, start, settings, 0, 0)
        for settings in (SETTINGS, SETTINGS, dataclasses.replace(SETTINGS, sites=("mlp",)))
    ]
    assert all(end.losses == () and torch.isfinite(end.values).all() for end in ends)
    assert not torch.equal(ends[0].values, ends[1].values)  # noise nobody can draw again
    assert torch.equal(ends[2].values[:, 0], start[:, 0])
