"""What fitting readouts costs one client on a wire, whether or not there is one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np

from calibration.readout.noisy import NoisySums, NoisyTold
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.fitting.fit import Told
from ifedicl_serve.fitting.stack import Asked, Curvature
from ifedicl_serve.fitting.statistics import Doubles, Statistics

FLOAT32, FLOAT64 = 4, 8


class Payload:
    """Bytes of one client's numbers by the fit they are of, up and down."""

    def __init__(self) -> None:
        self.up: Counter[Fit] = Counter()
        self.down: Counter[Fit] = Counter()


class Metered(Payload):
    """Passes on what is asked and told, and counts it."""

    def __init__(self, told: Told) -> None:
        super().__init__()
        self.told = told

    def statistics(self, fits: Sequence[Fit]) -> dict[Fit, list[Statistics]]:
        """Up once, in float32."""
        statistics = self.told.statistics(fits)
        self.up += _statistics_bytes(statistics)
        return statistics

    def learn(self, told: Mapping[Fit, Sequence[Statistics]]) -> None:
        """Down once, in float32."""
        self.down += _statistics_bytes(told)
        self.told.learn(told)

    def losses(self, asked: Sequence[Asked]) -> list[float]:
        """A number up for each theta down."""
        self._ask(asked)
        found = self.told.losses(asked)
        for one in asked:
            self.up[one.fit] += FLOAT64
        return found

    def curvatures(self, asked: Sequence[Asked]) -> list[Curvature]:
        """A loss, a gradient and a Hessian up for each theta down."""
        self._ask(asked)
        found = self.told.curvatures(asked)
        for one, there in zip(asked, found, strict=True):
            self.up[one.fit] += FLOAT64 + there.gradient.nbytes + there.hessian.nbytes
        return found

    def _ask(self, asked: Sequence[Asked]) -> None:
        for one in asked:
            self.down[one.fit] += 3 * FLOAT64 + one.theta.nbytes  # fit, strength and fold with it


class MeteredNoisy(Payload):
    """The same of private clients, who fit under one fit."""

    def __init__(self, told: NoisyTold, fit: Fit) -> None:
        super().__init__()
        self.told, self.fit = told, fit

    def statistics(self) -> NoisySums:
        """Up once, in float32."""
        statistics = self.told.statistics()
        self.up[self.fit] += _noisy_bytes(statistics)
        return statistics

    def learn(self, told: NoisySums) -> None:
        """Down once, in float32."""
        self.down[self.fit] += _noisy_bytes(told)
        self.told.learn(told)

    def gradient(self, step: int, theta: Doubles) -> Doubles:
        """A number up for each down."""
        self.down[self.fit] += theta.nbytes
        self.up[self.fit] += theta.nbytes
        return self.told.gradient(step, theta)


def _noisy_bytes(sums: NoisySums) -> int:
    return FLOAT32 * sum(np.size(getattr(sums, field.name)) for field in fields(sums))


def _statistics_bytes(statistics: Mapping[Fit, Sequence[Statistics]]) -> Counter[Fit]:
    names = [field.name for field in fields(Statistics)]
    return Counter(
        {
            fit: FLOAT32 * sum(getattr(part, name).size for part in by_fold for name in names)
            for fit, by_fold in statistics.items()
        }
    )
