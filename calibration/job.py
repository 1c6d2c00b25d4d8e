"""What a calibration is made of, and the record of it that goes into the artifact.

Nothing here depends on when or how fast a run goes: equal jobs give equal digests.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from calibration.data import Example
from calibration.evaluate import Metrics
from calibration.hooked import HookedModel
from calibration.settings import Settings
from calibration.state import fingerprint
from calibration.task import TaskDefinition
from ifedicl_serve import __version__
from ifedicl_serve.artifact import CalibrationRecord, TaskSpec
from ifedicl_serve.identity import ModelIdentity
from ifedicl_serve.injection import SITES

FLOAT32_BYTES = 4
PACKAGES = ("torch", "transformers")


@dataclass(frozen=True)
class Job:
    """Everything a calibration is made of. `held_out` is measured on, never fitted to."""

    model: HookedModel
    identity: ModelIdentity
    task: TaskDefinition
    clients: Sequence[Sequence[Example]]
    held_out: Sequence[Example]
    settings: Settings

    def fingerprint(self) -> str:
        """What a saved state must have been made from to be continued."""
        return fingerprint(
            __version__,
            self.identity.model_dump(),
            str(self.model.network.dtype),
            self.model.device.type,
            self.task.name,
            self.task.prompt.model_dump(),
            [label.model_dump() for label in self.task.labels],
            self.settings.record(),
            [[(example.text, example.label) for example in client] for client in self.clients],
            [(example.text, example.label) for example in self.held_out],
        )


def task_spec(job: Job, before: Metrics, after: Metrics) -> TaskSpec:
    """`task.json`: nothing in it depends on when or how fast the run went."""
    settings = job.settings
    return TaskSpec(
        name=job.task.name,
        prompt=job.task.prompt,
        labels=job.task.labels,
        layers=settings.layers,
        sites=settings.sites,
        num_layers=job.model.num_layers,
        hidden_size=job.model.hidden_size,
        model=job.identity,
        calibration=CalibrationRecord(
            loss=settings.loss,
            rounds=settings.rounds,
            seed=settings.seed,
            client_sizes=tuple(len(client) for client in job.clients),
            settings=settings.record() | {"dtype": str(job.model.network.dtype).split(".")[1]},
            metrics={f"zero_shot_{name}": value for name, value in before.items()}
            | {f"adapted_{name}": value for name, value in after.items()}
            | {"held_out": float(len(job.held_out))},
            wire_bytes=wire_bytes(job.model, settings, len(job.clients)),
            versions=versions(),
        ),
    )


def wire_bytes(model: HookedModel, settings: Settings, clients: int) -> dict[str, int]:
    """Payload bytes in float32: what a federation would send, headers aside."""
    vector = FLOAT32_BYTES * model.num_layers * len(SITES) * model.hidden_size
    coefficients = FLOAT32_BYTES * model.num_layers * len(SITES) * 2
    each_way = vector + settings.rounds * coefficients
    return {
        "context_vector_per_client_each_way": vector,
        "coefficients_per_client_and_round_each_way": coefficients,
        "total": 2 * clients * each_way,
    }


def versions() -> dict[str, str]:
    """What computed the artifact."""
    found = {name: version(name) for name in PACKAGES}
    return found | {"ifedicl-serve": __version__, "python": platform.python_version()}
