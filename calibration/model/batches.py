"""Cutting work into batches: by similar length for scoring, at random for fitting."""

from collections.abc import Iterator, Sequence

import torch

SCORING_TOKENS = 4096  # padded tokens per forward pass


def by_length(lengths: Sequence[int], max_tokens: int = SCORING_TOKENS) -> Iterator[list[int]]:
    """Positions in batches of similar length whose padded size stays within `max_tokens`.

    The longest come first, so a batch that does not fit in memory fails at once.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def shuffled(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[list[int]]:
    """`steps` batches of `size` positions below `count`, reshuffled when all have been used."""
    pool: list[int] = []
    for _ in range(steps):
        while len(pool) < size:
            pool += torch.randperm(count, generator=generator).tolist()
        yield pool[:size]
        pool = pool[size:]
