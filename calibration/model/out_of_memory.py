"""A GPU's lack of memory as an error of ours: what was asked, what there was, and which option asks
for less."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ifedicl_serve.errors import ModelError


@contextmanager
def within_memory(
    sequences: int, longest: int, max_tokens: int, checkpointing: bool
) -> Iterator[None]:
    """Around a pass over padded sequences, with a backward pass if there are gradients. Raises
    ModelError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        fitting = torch.is_grad_enabled()
        if fitting and not checkpointing:
            less = "give --checkpointing on, or a lower --max-batch-tokens"
        elif sequences > 1:
            less = "give a lower --max-batch-tokens"
        else:
            less = "shorten texts, or give --dtype bf16, --device-map auto or a larger GPU"
        layers = f" with{'' if checkpointing else 'out'} checkpointing" if fitting else ""
        raise ModelError(
            f"{_short(error)}; {sequences} sequences padded to {longest} tokens were asked for at "
            f"once, under --max-batch-tokens {max_tokens}{layers}; {less}"
        ) from error


@contextmanager
def weights_within_memory(weights: str) -> Iterator[None]:
    """The same around loading a model, of so many `weights`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{_short(error)}; {weights} of weights were asked for; give --dtype bf16, "
            "--device-map auto for several GPUs, or a larger GPU"
        ) from error


def _short(error: torch.OutOfMemoryError) -> str:
    """What was asked and what there was, without PyTorch's advice."""
    told = re.match(r".*? is free", str(error), re.DOTALL)
    return told[0] if told else str(error)
