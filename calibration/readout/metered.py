"""What fitting readouts costs one client on a wire, whether or not there is one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from calibration.readout.fit import Told
from calibration.readout.stack import Asked, Curvature
from calibration.readout.statistics import Statistics
from ifedicl_serve.contract.spec import Fit

FLOAT32, FLOAT64 = 4, 8


class Metered:
    """Passes on what is asked and told, and counts the bytes of the numbers."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.up = self.down = 0

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
        self.down += _asked_bytes(asked)
        self.up += FLOAT64 * len(asked)
        return self.told.losses(asked)

    def curvatures(self, asked: Sequence[Asked]) -> list[Curvature]:
        """A loss, a gradient and a Hessian up for each theta down."""
        self.down += _asked_bytes(asked)
        found = self.told.curvatures(asked)
        self.up += sum(FLOAT64 + one.gradient.nbytes + one.hessian.nbytes for one in found)
        return found


def _statistics_bytes(statistics: Mapping[Fit, Iterable[Statistics]]) -> int:
    parts = (part for by_fold in statistics.values() for part in by_fold)
    return FLOAT32 * sum(getattr(part, field.name).size for part in parts for field in fields(part))


def _asked_bytes(asked: Iterable[Asked]) -> int:
    return sum(3 * FLOAT64 + one.theta.nbytes for one in asked)  # fit, strength and fold with each
