"""Where a fit begins: at the nearest task of a folder, if that is better than to begin afresh.

The paper's index of tasks (arXiv 2511.06757): a new task's context vector is looked up among those
of tasks that were calibrated before, and the nearest one's fit is the starting point. I2CL reports
2 to 4 points from related tasks (arXiv 2405.14660).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from calibration.model.sites import first_values, values_of
from calibration.settings import Settings, SiteFit
from ifedicl_serve.contract.artifact import TASK_FILE, Artifact, load_artifact, read_spec
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.errors import ArtifactError, DataError
from ifedicl_serve.tasks.index import artifact_folders


@dataclass(frozen=True)
class Start:
    """A task to begin from: its name, the cosine of its context vector and the new one, and its
    values [layers, 2, ...] as those of the new one."""

    task: str
    cosine: float
    values: Tensor


class Shelf:
    """Tasks that were calibrated before."""

    def __init__(self, tasks: Sequence[Artifact] = ()) -> None:
        self.tasks = tasks

    @classmethod
    def read(cls, path: Path, model: ModelIdentity) -> "Shelf":
        """A task, or a folder of tasks; those of another model, and those that keep no context
        vector, are passed over. Raises DataError if none is left.

        Of a `model` whose weights are not known, whatever its weights are (`on`).
        """
        if (path / TASK_FILE).is_file():
            folders = [path]
        else:
            folders = [path / name for name in sorted(artifact_folders(path))]
        tasks, refusals = [], []
        for folder in folders:
            try:
                spec, _ = read_spec(folder)
                weights = model.weights_digest or spec.model.weights_digest
                task = load_artifact(folder, model.with_weights(weights))
            except ArtifactError as error:
                refusals.append(str(error))
                continue
            if task.spec.fit != "none" and "context_vector" in task.tensors:
                tasks.append(task)
        if not tasks:
            why = refusals[0] if refusals else "none is fitted at the sites"
            raise DataError(
                f"{path}: no task to start from ({why}); name a task, or a folder of tasks, of the "
                "same model, calibrated with --fit coefficients or channels"
            )
        return cls(tasks)

    def on(self, weights: str) -> "Shelf":
        """Its tasks of a model of these weights. Raises DataError if none is left of some."""
        tasks = [task for task in self.tasks if task.spec.model.weights_digest == weights]
        if self.tasks and not tasks:
            raise DataError(
                f"no task to start from is of the clients' weights (digest {weights[:16]}); start "
                "from tasks that were calibrated on those"
            )
        return Shelf(tasks)

    @property
    def digests(self) -> list[str]:
        """Of its tasks."""
        return [task.digest for task in self.tasks]

    def nearest(self, fit: SiteFit, context_vector: Tensor, settings: Settings) -> Start | None:
        """The task that can begin such a fit and whose context vector is the nearest."""
        mask = adapted_mask(len(context_vector), settings.layers, settings.sites)
        own = _direction(context_vector, mask)
        fitting = [task for task in self.tasks if _begins(task, fit)]
        if not fitting:
            return None
        cosines = [float(own @ _direction(task.context_vector, mask)) for task in fitting]
        cosine, task = max(zip(cosines, fitting, strict=True), key=lambda pair: pair[0])
        values = first_values(fit, context_vector, settings)
        values[mask] = values_of(fit, context_vector, task.tensors)[mask]
        return Start(task.spec.name, cosine, values)


EMPTY = Shelf()


def _begins(task: Artifact, fit: SiteFit) -> bool:
    """Coefficients can begin channels, not the other way round."""
    return fit == "channels" or task.spec.fit == "coefficients"


def _direction(context_vector: Tensor, mask: Tensor) -> Tensor:
    """The adapted sites' vectors, each of length 1 as their sizes differ, in one of length 1."""
    sites = torch.nn.functional.normalize(context_vector[mask].double(), dim=-1)
    return sites.flatten() / len(sites) ** 0.5


def comparison(start: Start, loss: float, afresh: float) -> Mapping[str, str | float | bool]:
    """What the report says: mean held-out losses before the first round, begun there and afresh."""
    return {
        "task": start.task,
        "cosine": round(start.cosine, 4),
        "loss": round(loss, 4),
        "loss_afresh": round(afresh, 4),
        "taken": loss < afresh,
    }
