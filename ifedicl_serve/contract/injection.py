"""The injection formula, written once for calibration, serving and the fused export.

    h' = beta * h + lambda * v          (IFed-ICL, arXiv 2511.06757; I2CL, arXiv 2405.14660)

`h` is a site's output before it is added to the residual stream. For serving, `lambda * v`
is folded once into `shift` and `beta` is called `scale`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Site = Literal["attn", "mlp"]
SITES: tuple[Site, ...] = get_args(Site)

LAMBDA, BETA = 0, 1  # positions in the last axis of the coefficients
LAMBDA_START, BETA_START = 0.1, 1.0


def inject(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return `scale * h + shift`, computed in float32 and rounded once to `h`'s dtype.

    `h` is [..., hidden]; `scale` and `shift` broadcast against it. With scale 1 and shift 0
    the result equals `h` exactly in every dtype.
    """
    return (h.float() * scale.float() + shift.float()).to(h.dtype)


def initial_coefficients(num_layers: int, layers: Iterable[int], sites: Iterable[Site]) -> Tensor:
    """Start values [num_layers, 2, 2]: (0.1, 1) where adapted, the identity (0, 1) elsewhere."""
    coefficients = torch.zeros(num_layers, len(SITES), 2)
    coefficients[..., BETA] = 1.0
    adapted = adapted_mask(num_layers, layers, sites)
    coefficients[..., LAMBDA][adapted] = LAMBDA_START
    coefficients[..., BETA][adapted] = BETA_START
    return coefficients


def adapted_mask(num_layers: int, layers: Iterable[int], sites: Iterable[Site]) -> Tensor:
    """Boolean [num_layers, 2]: True at the layers and sites the task adapts."""
    mask = torch.zeros(num_layers, len(SITES), dtype=torch.bool)
    for site in sites:
        mask[list(layers), SITES.index(site)] = True
    return mask


@dataclass(frozen=True)
class Injection:
    """A task folded for serving: `scale` [layers, 2] and `shift` [layers, 2, hidden], float32."""

    scale: Tensor
    shift: Tensor


def fold(context_vector: Tensor, coefficients: Tensor) -> Injection:
    """Fold a context vector [layers, 2, hidden] and coefficients [layers, 2, 2] for serving."""
    lam, beta = coefficients[..., LAMBDA], coefficients[..., BETA]
    return Injection(scale=beta.float(), shift=lam.float().unsqueeze(-1) * context_vector.float())
