"""Cutting work into batches: by similar length for scoring, at random for fitting, and batches into
pieces that a device has memory for."""

from collections.abc import Iterator, Sequence

import torch

from calibration.settings import MAX_BATCH_TOKENS


def by_length(lengths: Sequence[int], max_tokens: int = MAX_BATCH_TOKENS) -> Iterator[list[int]]:
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


def pieces(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """The positions of a batch: all as they come if they fit into `max_tokens` together, else by
    length. What is longer than that is a piece alone."""
    if len(lengths) * max(lengths, default=0) <= max_tokens:
        return [list(range(len(lengths)))] if lengths else []
    return list(by_length(lengths, max_tokens))


def shuffled(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[list[int]]:
    """`steps` batches of `size` positions below `count`, reshuffled when all have been used."""
    pool: list[int] = []
    for _ in range(steps):
        while len(pool) < size:
            pool += torch.randperm(count, generator=generator).tolist()
        yield pool[:size]
        pool = pool[size:]
