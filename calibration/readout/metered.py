"""What fitting readouts costs one client on a wire, whether or not there is one."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np

from calibration.readout.fit import Told
from calibration.readout.noisy import NoisySums, NoisyTold
from calibration.readout.stack import Asked, Curvature
from calibration.readout.statistics import Doubles, Statistics

FLOAT32, FLOAT64 = 4, 8


class Metered:
    """Passes on what is asked and told, and counts the bytes of the numbers."""

    def __init__(self) -> None:
        self.up = self.down = 0
        self.told: Told

    def of(self, told: Told) -> "Metered":
        """The same count, of others."""
        self.told = told
        return self

    def statistics(self) -> list[Statistics]:
        """Up once, in float32."""
        statistics = self.told.statistics()
        self.up += _statistics_bytes(statistics)
        return statistics

    def learn(self, told: Sequence[Statistics]) -> None:
        """Down once, in float32."""
        self.down += _statistics_bytes(told)
        self.told.learn(told)

    def losses(self, asked: Sequence[Asked]) -> list[float]:
        """A number up for each theta down."""
        self.down += _asked_bytes(asked)
        self.up += FLOAT64 * len(asked)
        return self.told.losses(asked)

    def curvatures(self, asked: Sequence[Asked]) -> list[Curvature]:
        """A loss, a gradient and a Hessian up for each theta down."""
        self.down += _asked_bytes(asked)
        found = self.told.curvatures(asked)
        self.up += sum(FLOAT64 + one.gradient.nbytes + one.hessian.nbytes for one in found)
        return found


class MeteredNoisy:
    """The same of private clients."""

    def __init__(self, told: NoisyTold) -> None:
        self.up = self.down = 0
        self.told = told

    def statistics(self) -> NoisySums:
        """Up once, in float32."""
        statistics = self.told.statistics()
        self.up += _noisy_bytes(statistics)
        return statistics

    def learn(self, told: NoisySums) -> None:
        """Down once, in float32."""
        self.down += _noisy_bytes(told)
        self.told.learn(told)

    def gradient(self, step: int, theta: Doubles) -> Doubles:
        """A number up for each down."""
        self.down += theta.nbytes
        self.up += theta.nbytes
        return self.told.gradient(step, theta)


def _noisy_bytes(sums: NoisySums) -> int:
    return FLOAT32 * sum(np.size(getattr(sums, field.name)) for field in fields(sums))


def _statistics_bytes(statistics: Iterable[Statistics]) -> int:
    return FLOAT32 * sum(
        getattr(part, field.name).size for part in statistics for field in fields(part)
    )


def _asked_bytes(asked: Iterable[Asked]) -> int:
    return sum(2 * FLOAT64 + one.theta.nbytes for one in asked)  # strength and fold with each
