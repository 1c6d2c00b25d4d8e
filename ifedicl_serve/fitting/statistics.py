"""What a client tells of its rows once. Sums: they add up over clients, whoever holds which row.

Second moments are what costs: only blocks along the diagonal are told. What that loses is small
(bench/results/trials.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add
from typing import Self

import numpy as np
import numpy.typing as npt

from ifedicl_serve.fitting.features import Features

Doubles = npt.NDArray[np.float64]
LARGEST_BLOCK = 64


@dataclass(frozen=True)
class Totals:
    """Numbers of some rows, field by field: those of more rows are their sum."""

    def __add__(self, other: Self) -> Self:
        return self._with(other, 1)

    def __sub__(self, other: Self) -> Self:
        return self._with(other, -1)

    def _with(self, other: Self, sign: int) -> Self:
        names = (field.name for field in fields(self))
        return replace(self, **{n: getattr(self, n) + sign * getattr(other, n) for n in names})

    def rounded(self) -> Self:
        """With arrays in the precision that they are told in, float32: the same on a wire and
        without one."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        return replace(self, **{n: a.astype(np.float32).astype(float) for n, a in arrays.items()})


@dataclass(frozen=True)
class Statistics(Totals):
    """Of some rows: how many have each label [labels], the sum of their last hidden states by label
    [labels, hidden], blocks [blocks, size, size] of the sum of the products of their coordinates,
    and the sum of their label log-probabilities [labels]."""

    counts: Doubles
    class_sums: Doubles
    second: Doubles
    log_probs: Doubles

    @classmethod
    def of(cls, features: Features, labels: npt.NDArray[np.int_]) -> Statistics:
        """Of rows with these features and labels."""
        log_probs, hidden = (part.astype(np.float64) for part in features)
        members = np.eye(log_probs.shape[1])[labels]
        rows, width = hidden.shape
        size = block_size(width)
        blocks = hidden.reshape(rows, width // size, size).transpose(1, 2, 0)
        return cls(
            counts=members.sum(axis=0),
            class_sums=members.T @ hidden,
            second=blocks @ blocks.transpose(0, 2, 1),
            log_probs=log_probs.sum(axis=0),
        )

    @property
    def rows(self) -> float:
        return float(self.counts.sum())


def block_size(hidden_size: int) -> int:
    """Of the blocks that second moments of such a model are told in; it divides the size."""
    return max(size for size in range(1, LARGEST_BLOCK + 1) if hidden_size % size == 0)


def total(statistics: Iterable[Statistics]) -> Statistics:
    """Their sum."""
    return reduce(add, statistics)
