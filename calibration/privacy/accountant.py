"""How much noise a client needs for its (epsilon, delta): Google's dp-accounting, asked once.

A client's whole history is one Gaussian release of its vector, and a Poisson-sampled Gaussian
release in every local step of every round. Renyi accounting: its noise is 7 % above what
privacy loss distributions would allow, and it takes a second where they take half a minute.
"""

from functools import lru_cache
from typing import Any

from calibration.settings import Settings
from ifedicl_serve.errors import DataError

# Renyi orders. Integers: fractional ones hardly tighten the bound, and converge slowly.
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512)

# A multiplier to search from: the vector's release alone then spends more than epsilon 100.
LEAST_NOISE = 0.1


def noise_multiplier(settings: Settings, count: int) -> float:
    """Standard deviation of the noise over the clipping norm, for a client of `count` examples.

    The same for the vector and for every step: the vector's part of the budget is then small
    where steps are many, and `mechanism.shrunk` makes the best of it.
    """
    return _calibrated(
        settings.epsilon,
        settings.delta,
        sampling_rate(settings, count),
        settings.rounds * settings.local_steps,
    )


def sampling_rate(settings: Settings, count: int) -> float:
    """The probability with which a local step uses an example."""
    return min(1.0, settings.batch_size / count)


def history(multiplier: float, rate: float, steps: int) -> Any:
    """Everything a client releases, as dp-accounting's event."""
    import dp_accounting as dp

    release = dp.GaussianDpEvent(multiplier)
    step = dp.PoissonSampledDpEvent(rate, release)
    return dp.ComposedDpEvent([release, dp.SelfComposedDpEvent(step, steps)])


def new_accountant() -> Any:
    """An accountant with nothing spent; its neighbours differ by zeroing out one example."""
    from dp_accounting import NeighboringRelation, rdp

    return rdp.RdpAccountant(ORDERS, NeighboringRelation.REPLACE_SPECIAL)


@lru_cache
def _calibrated(epsilon: float, delta: float, rate: float, steps: int) -> float:
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
            lambda multiplier: history(multiplier, rate, steps),
            epsilon,
            delta,
            dp.LowerEndpointAndGuess(LEAST_NOISE, 2.0),
        )
    except NoBracketIntervalFoundError as error:
        raise DataError(
            f"no noise is known to keep epsilon {epsilon:g} with delta {delta:g} over {steps} "
            "steps; ask for a larger --epsilon or --delta"
        ) from error
