"""What of a fit goes into the artifact's record."""

from collections.abc import Sequence

from ifedicl_serve.contract.spec import RungRecord
from ifedicl_serve.fitting.judge import DIGITS, Measured, Metrics, Trial
from ifedicl_serve.fitting.rungs import Rung


def measurements(measured: Measured) -> Metrics:
    """Metrics under the names they have in an artifact."""
    zero_shot = {f"zero_shot_{name}": value for name, value in measured.before.items()}
    adapted = {f"adapted_{name}": value for name, value in measured.after.items()}
    return zero_shot | adapted | {"held_out": float(measured.rows)}


def rung_records(
    trials: Sequence[Trial], labels: int, shape: tuple[int, int, int]
) -> tuple[RungRecord, ...]:
    """What was said of each rung that was tried for a task with so many labels.

    `shape` is that of a context vector, [layers, sites, hidden].
    """
    return tuple(
        RungRecord(
            name=trial.rung.name,
            numbers=numbers(trial.rung, labels, shape),
            log_loss=trial.metrics["log_loss"],
            excess=round(trial.excess, DIGITS),
            standard_error=round(trial.standard_error, DIGITS),
            accuracy=trial.metrics["accuracy"],
        )
        for trial in trials
    )


def numbers(rung: Rung, labels: int, shape: tuple[int, int, int]) -> int:
    """How many numbers of a task with so many labels are fitted on a rung."""
    layers, sites, hidden = shape
    at_sites = {"none": 0, "coefficients": 2, "channels": 2 * hidden}[rung.fit] * layers * sites
    read_out = {"none": 0, "bias": 1 + labels, "head": 1 + labels * (1 + hidden)}[rung.readout]
    return at_sites + read_out
