"""The injection formula, written once for calibration, serving and the fused export.

    h' = scale * h + shift

`h` is a site's output before it is added to the residual stream. The paper's method is a case:

    h' = beta * h + lambda * v          (IFed-ICL, arXiv 2511.06757; I2CL, arXiv 2405.14660)

so its coefficients are folded into `scale` and `shift`, and no worker knows of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Site = Literal["attn", "mlp"]
SITES: tuple[Site, ...] = get_args(Site)
TensorName = Literal[
    "bias", "coefficients", "context_vector", "label_rows", "scale", "sharpness", "shift"
]

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
    """What a task does at its sites: `scale` [layers, 2, 1] (one number a site) or
    [layers, 2, hidden] (one a channel) and `shift` [layers, 2, hidden], float32.

    While fitting, both may have a batch in front: every sequence its own.
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, tensors: Mapping[TensorName, Tensor]) -> "Injection | None":
        """That of an artifact's tensors; None if they adapt no site."""
        if "scale" in tensors:
            return cls(tensors["scale"], tensors["shift"])
        if "coefficients" in tensors:
            return fold(tensors["context_vector"], tensors["coefficients"])
        return None

    @classmethod
    def identity(cls, num_layers: int, hidden_size: int) -> "Injection":
        """What changes nothing."""
        shape = (num_layers, len(SITES))
        return cls(torch.ones(*shape, 1), torch.zeros(*shape, hidden_size))

    def unchanged(self) -> Tensor:
        """Boolean [layers, 2]: where it is exactly the identity."""
        return (self.scale == 1).all(dim=-1) & (self.shift == 0).all(dim=-1)


def fold(context_vector: Tensor, coefficients: Tensor) -> Injection:
    """The injection of a context vector [layers, 2, hidden] and coefficients [..., layers, 2, 2];
    differentiable in both."""
    lam, beta = coefficients[..., LAMBDA, None], coefficients[..., BETA, None]
    return Injection(scale=beta.float(), shift=lam.float() * context_vector.float())
