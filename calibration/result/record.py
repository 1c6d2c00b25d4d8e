"""The record of a calibration that goes into the artifact.

Nothing here depends on when or how fast a run goes: equal jobs give equal digests.
"""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from statistics import fmean

from calibration.settings import Settings
from calibration.stages.evaluate import DIGITS, Metrics
from calibration.task import TaskDefinition
from ifedicl_serve import __version__
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.spec import CalibrationRecord, TaskSpec

FLOAT32_BYTES = 4
PACKAGES = ("torch", "transformers")
Losses = Sequence[Sequence[Sequence[float]]]  # by round, client and step


def calibration_spec(
    task: TaskDefinition,
    identity: ModelIdentity,
    shape: tuple[int, int, int],
    settings: Settings,
    client_sizes: Sequence[int],
    vector_bytes: int,
    measured: Metrics,
    circumstances: dict[str, int | float | str],
    losses: Losses = (),
) -> TaskSpec:
    """`task.json`: nothing in it depends on when or how fast the run went.

    `shape` is that of the context vector, `vector_bytes` what it weighs on the wire, and
    `circumstances` join the settings in the record.
    """
    return TaskSpec(
        name=task.name,
        prompt=task.prompt,
        labels=task.labels,
        layers=settings.layers,
        sites=settings.sites,
        extent=settings.extent,
        num_layers=shape[0],
        hidden_size=shape[2],
        model=identity,
        calibration=CalibrationRecord(
            loss=settings.loss,
            rounds=settings.rounds,
            round_losses=round_losses(losses),
            seed=settings.seed,
            client_sizes=tuple(client_sizes),
            settings=settings.record() | circumstances,
            metrics=measured,
            wire_bytes=wire_bytes(shape, vector_bytes, settings.rounds, len(client_sizes)),
            versions=versions(),
        ),
    )


def measurements(before: Metrics, after: Metrics, rows: int) -> Metrics:
    """Held-out metrics under the names they have in an artifact."""
    zero_shot = {f"zero_shot_{name}": value for name, value in before.items()}
    adapted = {f"adapted_{name}": value for name, value in after.items()}
    return zero_shot | adapted | {"held_out": float(rows)}


def round_losses(losses: Losses) -> tuple[float, ...]:
    """Each round's mean over all clients' steps; none if the clients of a round withheld theirs."""
    rounds = [[loss for steps in clients for loss in steps] for clients in losses]
    return tuple(round(fmean(steps), DIGITS) for steps in rounds) if all(rounds) else ()


def wire_bytes(
    shape: tuple[int, int, int], vector_bytes: int, rounds: int, clients: int
) -> dict[str, int]:
    """Payload bytes of a federation, headers aside; coefficients travel in float32."""
    layers, sites, _ = shape
    coefficients = FLOAT32_BYTES * layers * sites * 2
    return {
        "context_vector_per_client_each_way": vector_bytes,
        "coefficients_per_client_and_round_each_way": coefficients,
        "total": 2 * clients * (vector_bytes + rounds * coefficients),
    }


def versions() -> dict[str, str]:
    """What computed the artifact."""
    found = {name: version(name) for name in PACKAGES}
    return found | {"ifedicl-serve": __version__, "python": platform.python_version()}
