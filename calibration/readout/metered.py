"""What fitting readouts costs one client on a wire, whether or not there is one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields

from calibration.readout.fit import Told
from calibration.readout.stack import Asked, Curvature
from calibration.readout.statistics import Statistics
from ifedicl_serve.contract.spec import Fit

FLOAT32, FLOAT64 = 4, 8


class Metered:
    """Passes on what is asked and told, and counts the bytes of the numbers, by fit."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.up: Counter[Fit] = Counter()
        self.down: Counter[Fit] = Counter()

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


def _statistics_bytes(statistics: Mapping[Fit, Sequence[Statistics]]) -> Counter[Fit]:
    names = [field.name for field in fields(Statistics)]
    return Counter(
        {
            fit: FLOAT32 * sum(getattr(part, name).size for part in by_fold for name in names)
            for fit, by_fold in statistics.items()
        }
    )
