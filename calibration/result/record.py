"""The record of a calibration that goes into the artifact.

Nothing here depends on when or how fast a run goes: equal jobs give equal digests.
"""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from statistics import fmean

from calibration.calibrate import Calibrated
from calibration.privacy.accountant import Releases
from calibration.settings import Settings
from calibration.state import State
from calibration.task import TaskDefinition
from ifedicl_serve import __version__
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.spec import CalibrationRecord, TaskSpec
from ifedicl_serve.fitting.judge import DIGITS
from ifedicl_serve.fitting.record import measurements, rung_records

FLOAT32_BYTES = 4
PACKAGES = ("torch", "transformers")


def calibration_spec(
    task: TaskDefinition,
    identity: ModelIdentity,
    shape: tuple[int, int, int],
    settings: Settings,
    client_sizes: Sequence[int],
    vector_bytes: int,
    circumstances: dict[str, int | float | str],
    done: Calibrated | None = None,
) -> TaskSpec:
    """`task.json`: nothing in it depends on when or how fast the run went.

    `shape` is that of the context vector, `vector_bytes` what it weighs on the wire, and
    `circumstances` join the settings in the record. Without `done`, of a task yet to be made.
    """
    adapts = done is None or done.rung.fit != "none"
    return TaskSpec(
        name=task.name,
        prompt=task.prompt,
        labels=task.labels,
        layers=settings.layers if adapts else (),
        sites=settings.sites if adapts else (),
        extent=settings.extent if adapts else "all",
        num_layers=shape[0],
        hidden_size=shape[2],
        model=identity,
        calibration=CalibrationRecord(
            loss=settings.loss,
            rounds=settings.rounds,
            round_losses=round_losses(done) if done else (),
            seed=settings.seed,
            client_sizes=tuple(client_sizes),
            settings=settings.record()
            | spent(settings)
            | (begun_at(done.state) if done else {})
            | circumstances,
            metrics=measurements(done.measured) if done else {},
            rungs=rung_records(done.trials, done.labels, shape) if done else (),
            wire_bytes=wire_bytes(done, shape, vector_bytes, len(client_sizes)) if done else {},
            versions=versions(),
        ),
    )


def spent(settings: Settings) -> dict[str, str]:
    """What the budget of private clients went to."""
    return {"epsilon_spent_on": str(Releases.of(settings))} if settings.private else {}


def begun_at(state: State) -> dict[str, int | float | str]:
    """The task that each fit began at, if it was one of the shelf."""
    return {f"{fit}_from": said["task"] for fit, said in state.starts.items() if said["taken"]}


def round_losses(done: Calibrated) -> tuple[float, ...]:
    """Each round's mean over all clients' steps, of what was fitted at the sites; none if the
    clients of a round withheld theirs."""
    if done.rung.fit == "none":
        return ()
    losses = done.state.losses[done.rung.fit]
    rounds = [[loss for steps in clients for loss in steps] for clients in losses]
    return tuple(round(fmean(steps), DIGITS) for steps in rounds) if all(rounds) else ()


def wire_bytes(
    done: Calibrated, shape: tuple[int, int, int], vector_bytes: int, clients: int
) -> dict[str, int]:
    """Payload bytes of a federation, headers aside, of a client: each way the context vector once
    and values a round, for what was fitted at the sites; up and down all that readouts took."""
    layers, sites, _ = shape
    told = {"context_vector_per_client_each_way": vector_bytes} if done.state.values else {}
    total = 2 * sum(told.values())
    for fit in done.state.values:
        a_round = 2 * vector_bytes if fit == "channels" else FLOAT32_BYTES * layers * sites * 2
        told[f"{fit}_per_client_and_round_each_way"] = a_round
        total += 2 * done.state.rounds_done(fit) * a_round
    if done.sums.up:
        up, down = done.sums.up.total(), done.sums.down.total()
        told |= {"readouts_per_client_up": up, "readouts_per_client_down": down}
        total += up + down
    return told | {"total": clients * total}


def versions() -> dict[str, str]:
    """What computed the artifact."""
    found = {name: version(name) for name in PACKAGES}
    return found | {"ifedicl-serve": __version__, "python": platform.python_version()}
