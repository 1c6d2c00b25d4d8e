"""What a fit makes small: the loss of a client's examples as a function of the coefficients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.model.hooked import HookedModel, Noise, injected
from calibration.model.loss import Target, label_loss
from ifedicl_serve.contract.injection import fold
from ifedicl_serve.contract.spec import Extent


@dataclass(frozen=True)
class Objective:
    """The loss of a client's examples as a function of the adapted coefficients."""

    model: HookedModel
    targets: Sequence[Target]
    context_vector: Tensor  # [layers, 2, hidden]
    coefficients: Tensor  # [layers, 2, 2], the values where nothing is adapted
    mask: Tensor  # [layers, 2]
    noise: Noise
    extent: Extent = "all"

    def __call__(self, positions: Sequence[int], adapted: Tensor) -> Tensor:
        """Mean loss of the examples at `positions`; `adapted` is [sites, 2], or [batch, sites, 2]
        for every example under coefficients of its own."""
        current = self.with_adapted(adapted)
        injection = fold(self.context_vector, current)
        with injected(self.model, injection, self.mask, self.extent, self.noise):
            return label_loss(self.model, [self.targets[position] for position in positions])

    def with_adapted(self, adapted: Tensor) -> Tensor:
        """The coefficients with the sites of the mask replaced; the others stay exactly as they
        are. `adapted` is [sites, 2] or [batch, sites, 2], the result [layers, 2, 2] or with
        `batch` first."""
        replaced = self.coefficients.expand(*adapted.shape[:-2], *self.coefficients.shape).clone()
        replaced[..., self.mask, :] = adapted
        return replaced


def example_gradients(
    objective: Objective, positions: Sequence[int], adapted: Tensor
) -> tuple[float, Tensor]:
    """Mean loss and every example's own gradient [examples, sites, 2], in one backward pass.

    Each example gets a copy of the coefficients, so the gradient of the summed loss by the
    copies is the gradient of each example's loss. No examples: a loss of 0 and no rows.
    """
    rows = adapted.repeat(len(positions), 1, 1).requires_grad_()
    if not positions:
        return 0.0, rows.detach()
    loss = objective(positions, rows)
    (gradients,) = torch.autograd.grad(loss * len(positions), rows)
    return loss.item(), gradients
