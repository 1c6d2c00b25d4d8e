"""What a fit makes small: the loss of a client's examples as a function of the numbers at the
sites it adapts.

Those are `values` [layers, 2, ...]: coefficients [layers, 2, 2], or a scale and a shift a channel
[layers, 2, 2, hidden]. `injection_of` turns either into an injection.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.model.batches import pieces
from calibration.model.checkpointing import checkpointed
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

    def gradient(self, positions: Sequence[int], adapted: Tensor) -> tuple[float, Tensor]:
        """Mean loss of the examples at `positions`, and its gradient by `adapted` [sites, ...],
        which asks for one."""
        loss, total = 0.0, torch.zeros_like(adapted)
        for piece in self.pieces(positions):
            share = len(piece) / len(positions)
            of_piece, gradient = self.piece_gradient(piece, adapted, share)
            loss += share * of_piece
            total += gradient
        return loss, total

    def pieces(self, positions: Sequence[int]) -> list[list[int]]:
        """Positions in batches for which there is memory."""
        lengths = [len(self.targets[position].ids) for position in positions]
        indices = pieces(lengths, self.model.max_batch_tokens)
        return [[positions[index] for index in piece] for piece in indices]

    def piece_gradient(
        self, piece: Sequence[int], adapted: Tensor, weight: float
    ) -> tuple[float, Tensor]:
        """Mean loss of the examples of a piece, and the gradient of `weight` times it by `adapted`:
        [sites, ...], or [piece, sites, ...] for every example under values of its own."""
        model, targets = self.model, [self.targets[position] for position in piece]
        injection = self.injection_of(self.with_adapted(adapted))
        with (
            model.within_memory([target.ids for target in targets]),
            injected(model, injection, self.mask, self.extent, self.noise),
            checkpointed(model.layers, self.noise.generator)
            if model.checkpointing
            else nullcontext(),
        ):
            loss = label_loss(model, targets)
            (gradient,) = torch.autograd.grad(loss * weight, adapted)
        return loss.item(), gradient

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
) -> Iterator[tuple[float, Tensor]]:
    """Piece by piece: its examples' summed loss, and each one's own gradient
    [examples, sites, ...], in one backward pass.

    Each example gets a copy of the adapted values [sites, ...], so the gradient of the summed loss
    by the copies is the gradient of each example's loss.
    """
    for piece in objective.pieces(positions):
        rows = adapted.expand(len(piece), *adapted.shape).clone().requires_grad_()
        loss, gradients = objective.piece_gradient(piece, rows, len(piece))
        yield len(piece) * loss, gradients
