"""Clipping, noise and Poisson sampling on plain tensors.

Nothing here may be derived from `settings.seed`: the coordinator knows it, and whoever can draw
the noise again can subtract it. torch's and numpy's generators are not used either: they are
predictable, and torch's has 2^32 starting points on a CPU. Tests pass a generator of their own.
"""

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]


class Randomness(Protocol):
    """What is drawn from; a `numpy.random.Generator` is one."""

    def random(self, size: int) -> FloatArray: ...
    def standard_normal(self, size: Sequence[int]) -> FloatArray: ...


class SystemRandomness:
    """Uniform and normal numbers from the operating system's cryptographic generator."""

    def random(self, size: int) -> FloatArray:
        """`size` numbers inside (0, 1), uniform."""
        bits = np.frombuffer(os.urandom(8 * size), dtype=np.uint64) >> 11  # 53 are left
        return (bits.astype(np.float64) + 0.5) * 2.0**-53

    def standard_normal(self, size: Sequence[int]) -> FloatArray:
        """Normal numbers of the given shape, by inverting their distribution."""
        from scipy.special import ndtri

        return ndtri(self.random(int(np.prod(size)))).reshape(size)


SYSTEM = SystemRandomness()


def clip(rows: Tensor, norm: float) -> Tensor:
    """Each row of [rows, ...] scaled down to at most `norm` in L2; a row that is not finite
    becomes 0, since nothing bounds it."""
    flat = rows.flatten(start_dim=1).float()
    lengths = flat.norm(dim=1, keepdim=True)
    clipped = flat * (norm / lengths.clamp_min(norm))
    return torch.where(lengths.isfinite(), clipped, 0.0).view(rows.shape)


def noised(values: Tensor, deviation: float, randomness: Randomness) -> Tensor:
    """`values` with Gaussian noise of a standard deviation: multiplier times L2 sensitivity."""
    noise = torch.from_numpy(randomness.standard_normal(tuple(values.shape)))
    return (values.double().cpu() + deviation * noise).float().to(values.device)


def shrunk(noisy: Tensor, deviation: float) -> Tensor:
    """`noisy` [..., width] with noise of `deviation`, each row shortened by what is likely noise.

    James and Stein's estimate (positive part): closer to the values than `noisy` is, and free,
    because it looks at nothing private. A row that is lost in noise becomes 0.
    """
    noise = noisy.shape[-1] * deviation**2
    length = noisy.square().sum(dim=-1, keepdim=True).clamp_min(1e-30)
    return noisy * (1 - noise / length).clamp_min(0)


def poisson_sample(count: int, rate: float, randomness: Randomness) -> list[int]:
    """Positions below `count`, each drawn with probability `rate` by itself; there may be none."""
    return np.flatnonzero(randomness.random(count) < rate).tolist()
