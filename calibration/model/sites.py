"""What is fitted at the sites: the paper's coefficients, or a scale and a shift a channel.

Either is one tensor `values` [layers, 2, ...], so that clients, averages, noise and wire treat both
alike: coefficients [layers, 2, 2], channels [layers, 2, 2, hidden] (scale less 1, then shift: what
changes nothing is 0, on any wire).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from calibration.settings import Settings
from ifedicl_serve.contract.injection import (
    Injection,
    TensorName,
    fold,
    initial_coefficients,
)

SiteFit = Literal["coefficients", "channels"]
SITE_FITS: tuple[SiteFit, ...] = get_args(SiteFit)
SCALE, SHIFT = 0, 1  # positions in the third axis of channels


def first_values(fit: SiteFit, context_vector: Tensor, settings: Settings) -> Tensor:
    """Those before the first round. Channels begin as the injection of the coefficients' start:
    from fitted coefficients they end no better, in twice the time (bench/results/accuracy.md)."""
    start = initial_coefficients(len(context_vector), settings.layers, settings.sites)
    if fit == "coefficients":
        return start
    injection = fold(context_vector, start)
    return torch.stack([injection.scale.expand_as(context_vector) - 1, injection.shift], dim=2)


def decay_origin(fit: SiteFit, context_vector: Tensor, settings: Settings) -> Tensor:
    """What weight decay pulls towards: coefficients to 0 (I2CL), channels to where they began."""
    first = first_values(fit, context_vector, settings)
    return torch.zeros_like(first) if fit == "coefficients" else first


def injection_of(fit: SiteFit, context_vector: Tensor) -> Callable[[Tensor], Injection]:
    """From values [..., layers, 2, ...] to the injection they are; differentiable."""
    return partial(fold, context_vector) if fit == "coefficients" else _by_channel


def site_tensors(fit: SiteFit, context_vector: Tensor, values: Tensor) -> dict[TensorName, Tensor]:
    """Those of an artifact."""
    if fit == "coefficients":
        return {"context_vector": context_vector, "coefficients": values}
    injection = _by_channel(values)
    return {
        "context_vector": context_vector,
        "scale": injection.scale,
        "shift": injection.shift,
    }


def _by_channel(values: Tensor) -> Injection:
    return Injection(1 + values[..., SCALE, :], values[..., SHIFT, :])
