"""Activation checkpointing of decoder layers: each keeps its inputs alone for the backward pass,
and runs again in it (Chen et al., arXiv 1604.06174).

Hooks must still be open during the backward pass, as a layer that runs again calls them again.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def checkpointed(layers: Sequence[nn.Module], generator: torch.Generator) -> Iterator[None]:
    """Forward passes within keep the inputs of `layers` alone. What hooks draw from `generator`
    they draw again in the backward pass, so that gradients are those without checkpointing bit for
    bit."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _rewound(generator, generator.get_state())

    # transformers' own checkpointing asks for training mode, in which dropout would be drawn.
    with ExitStack() as undo:
        for layer in layers:
            undo.callback(_restore_forward, layer, vars(layer).get("forward"))
            layer.forward = partial(
                checkpoint, layer.forward, use_reentrant=False, context_fn=contexts
            )
        yield


def _restore_forward(layer: nn.Module, own: object | None) -> None:
    """Its class's, or that of accelerate, which puts one of its own on layers that it spreads."""
    del layer.forward
    if own is not None:
        layer.forward = own  # type: ignore[assignment]


@contextmanager
def _rewound(generator: torch.Generator, state: torch.Tensor) -> Iterator[None]:
    now = generator.get_state()
    generator.set_state(state)
    try:
        yield
    finally:
        generator.set_state(now)
