"""What is fitted at the sites: the paper's coefficients, or a scale and a shift a channel.

Either is one tensor `values` [layers, 2, ...], so that clients, averages, noise and wire treat both
alike: coefficients [layers, 2, 2], channels [layers, 2, 2, hidden] (scale less 1, then shift: what
changes nothing is 0, on any wire). Shifts are in units of the context vector's root mean square at
the site, so that one learning rate suits every layer and model.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from calibration.settings import Settings, SiteFit
from ifedicl_serve.contract.injection import (
    Injection,
    TensorName,
    fold,
    initial_coefficients,
)

SCALE, SHIFT = 0, 1  # positions in the third axis of channels
TINY = 1e-6  # a site that demonstrations leave no trace at


def first_values(fit: SiteFit, context_vector: Tensor, settings: Settings) -> Tensor:
    """Those before the first round. Channels begin as the injection of the coefficients' start:
    from fitted coefficients they end no better, in twice the time (bench/results/trials.md)."""
    start = initial_coefficients(len(context_vector), settings.layers, settings.sites)
    if fit == "coefficients":
        return start
    return _channels(context_vector, fold(context_vector, start))


def decay_origin(fit: SiteFit, context_vector: Tensor, settings: Settings) -> Tensor:
    """What weight decay pulls towards: coefficients to 0 (I2CL), channels to where they began."""
    first = first_values(fit, context_vector, settings)
    return torch.zeros_like(first) if fit == "coefficients" else first


def injection_of(fit: SiteFit, context_vector: Tensor) -> Callable[[Tensor], Injection]:
    """From values [..., layers, 2, ...] to the injection they are; differentiable."""
    kinds = {"coefficients": fold, "channels": _by_channel}
    return partial(kinds[fit], context_vector)


def site_tensors(fit: SiteFit, context_vector: Tensor, values: Tensor) -> dict[TensorName, Tensor]:
    """Those of an artifact."""
    if fit == "coefficients":
        return {"context_vector": context_vector, "coefficients": values}
    injection = _by_channel(context_vector, values)
    return {
        "context_vector": context_vector,
        "scale": injection.scale,
        "shift": injection.shift,
    }


def values_of(fit: SiteFit, context_vector: Tensor, tensors: Mapping[TensorName, Tensor]) -> Tensor:
    """The values [layers, 2, ...] by which a task with this context vector does at the sites what
    an artifact's tensors do; coefficients only from coefficients, with the vector in their place.
    """
    if fit == "coefficients":
        return tensors["coefficients"]
    injection = Injection.of(tensors)
    assert injection is not None
    return _channels(context_vector, injection)


def _channels(context_vector: Tensor, injection: Injection) -> Tensor:
    scale = injection.scale.expand_as(context_vector)
    return torch.stack([scale - 1, injection.shift / _size(context_vector)], dim=2)


def _by_channel(context_vector: Tensor, values: Tensor) -> Injection:
    size = _size(context_vector)
    return Injection(1 + values[..., SCALE, :], size * values[..., SHIFT, :])


def _size(context_vector: Tensor) -> Tensor:
    """Root mean square [layers, 2, 1]."""
    return context_vector.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(TINY)
