"""How much noise a client needs for its (epsilon, delta): Google's dp-accounting, asked once.

A client's whole history is what its rung takes: a Gaussian release of its vector and a
Poisson-sampled one in every local step of every round; of a readout, a Gaussian release of sums and
one of a gradient in every step of the fit. Renyi accounting: its noise is 7 % above what privacy
loss distributions would allow, and it takes a second where they take half a minute.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from calibration.ladder import private_rung
from calibration.readout.noisy import STEPS
from calibration.settings import Settings
from ifedicl_serve.errors import DataError

# Renyi orders. Integers: fractional ones hardly tighten the bound, and converge slowly.
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512)

# A multiplier to search from: the vector's release alone then spends more than epsilon 100.
LEAST_NOISE = 0.1

# Of a readout's gradients over everything else's: they are few numbers, whose noise the fit evens
# out, where sums over a hidden size of numbers need theirs small.
GRADIENT_NOISE = 4.0


class Releases(NamedTuple):
    """How often a client tells its context vector, makes a local step, tells sums of its rows for a
    readout, and a gradient of the readout."""

    vectors: int
    steps: int
    sums: int
    gradients: int

    @classmethod
    def of(cls, settings: Settings) -> "Releases":
        """Those that private settings ask for."""
        rung = private_rung(settings)
        fits, reads = rung.fit != "none", rung.readout != "none"
        steps = fits * settings.rounds * settings.local_steps
        return cls(int(fits), steps, int(reads), reads * STEPS)

    def __str__(self) -> str:
        """What the budget is spent on, in the record of a calibration."""
        names = ("context vector", "local step", "sums of rows", "gradient of the readout")
        return ", ".join(f"{n} x {name}" for n, name in zip(self, names, strict=True) if n)


def noise_multiplier(settings: Settings, count: int) -> float:
    """Standard deviation of the noise over the clipping norm, for a client of `count` examples.

    The same for the vector, for every step and for sums, and GRADIENT_NOISE times as much for a
    readout's gradients. The vector's part of the budget is then small where steps are many, and
    `mechanism.shrunk` makes the best of it.
    """
    rate = sampling_rate(settings, count)
    return _calibrated(settings.epsilon, settings.delta, rate, Releases.of(settings))


def sampling_rate(settings: Settings, count: int) -> float:
    """The probability with which a local step uses an example."""
    return min(1.0, settings.batch_size / count)


def history(multiplier: float, rate: float, releases: Releases) -> Any:
    """Everything a client releases, as dp-accounting's event."""
    import dp_accounting as dp

    release = dp.GaussianDpEvent(multiplier)
    step = dp.PoissonSampledDpEvent(rate, release)
    gradient = dp.GaussianDpEvent(GRADIENT_NOISE * multiplier)
    parts = zip((release, step, release, gradient), releases, strict=True)
    return dp.ComposedDpEvent([dp.SelfComposedDpEvent(one, times) for one, times in parts if times])


def new_accountant() -> Any:
    """An accountant with nothing spent; its neighbours differ by zeroing out one example."""
    from dp_accounting import NeighboringRelation, rdp

    return rdp.RdpAccountant(ORDERS, NeighboringRelation.REPLACE_SPECIAL)


@lru_cache
def _calibrated(epsilon: float, delta: float, rate: float, releases: Releases) -> float:
    try:  # takes a second, and only private calibrations need it
        import dp_accounting as dp
    except ImportError as error:
        raise DataError(
            f"epsilon is {epsilon}, but dp-accounting is not installed; pip install "
            "'ifedicl-serve[privacy]'"
        ) from error
    from dp_accounting.mechanism_calibration import NoBracketIntervalFoundError

    try:
        return dp.calibrate_dp_mechanism(
            new_accountant,
            lambda multiplier: history(multiplier, rate, releases),
            epsilon,
            delta,
            dp.LowerEndpointAndGuess(LEAST_NOISE, 2.0),
        )
    except NoBracketIntervalFoundError as error:
        raise DataError(
            f"no noise is known to keep epsilon {epsilon:g} with delta {delta:g} over {releases}; "
            "ask for a larger --epsilon or --delta"
        ) from error
