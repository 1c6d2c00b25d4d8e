"""What a fit makes small: the loss of a client's examples as a function of the numbers at the
sites it adapts.

Those are `values` [layers, 2, ...]: coefficients [layers, 2, 2], or a scale and a shift a channel
[layers, 2, 2, hidden]. `injection_of` turns either into an injection.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.model.hooked import HookedModel, Noise, injected
from calibration.model.loss import Target, label_loss
from ifedicl_serve.contract.injection import Injection
from ifedicl_serve.contract.spec import Extent


@dataclass(frozen=True)
class Objective:
    """The loss of a client's examples as a function of the adapted values."""

    model: HookedModel
    targets: Sequence[Target]
    injection_of: Callable[[Tensor], Injection]
    values: Tensor  # [layers, 2, ...], those where nothing is adapted
    mask: Tensor  # [layers, 2]
    noise: Noise
    extent: Extent = "all"

    def __call__(self, positions: Sequence[int], adapted: Tensor) -> Tensor:
        """Mean loss of the examples at `positions`; `adapted` is [sites, ...], or
        [batch, sites, ...] for every example under values of its own."""
        injection = self.injection_of(self.with_adapted(adapted))
        with injected(self.model, injection, self.mask, self.extent, self.noise):
            return label_loss(self.model, [self.targets[position] for position in positions])

    def with_adapted(self, adapted: Tensor) -> Tensor:
        """The values with the sites of the mask replaced; the others stay exactly as they are.
        `adapted` is [sites, ...] or [batch, sites, ...], the result [layers, 2, ...] or with
        `batch` first."""
        width, flat = self.values.shape[2:], self.values.flatten(start_dim=2)
        batch = adapted.shape[: adapted.ndim - 1 - len(width)]
        replaced = flat.expand(*batch, *flat.shape).clone()
        replaced[..., self.mask, :] = adapted.flatten(start_dim=len(batch) + 1)
        return replaced.unflatten(-1, width)


def example_gradients(
    objective: Objective, positions: Sequence[int], adapted: Tensor
) -> tuple[float, Tensor]:
    """Mean loss and every example's own gradient [examples, sites, ...], in one backward pass.

    Each example gets a copy of the adapted values [sites, ...], so the gradient of the summed loss
    by the copies is the gradient of each example's loss. No examples: a loss of 0 and no rows.
    """
    rows = adapted.expand(len(positions), *adapted.shape).clone().requires_grad_()
    if not positions:
        return 0.0, rows.detach()
    loss = objective(positions, rows)
    (gradients,) = torch.autograd.grad(loss * len(positions), rows)
    return loss.item(), gradients
