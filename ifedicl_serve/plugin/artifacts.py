"""The artifacts that a worker reads, by digest, from the folder of tasks."""

import logging
from pathlib import Path

from torch import Tensor

from ifedicl_serve.contract.artifact import Artifact, load_artifact
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.signing import TrustedKeys
from ifedicl_serve.errors import ArtifactError
from ifedicl_serve.plugin import counters as metrics
from ifedicl_serve.plugin.request import TaskKey
from ifedicl_serve.tasks.index import ArtifactIndex

logger = logging.getLogger("vllm.ifedicl")


class WorkerArtifacts:
    """Those of the model that is served, which has `num_layers` layers of width `hidden_size`. With
    `trusted` keys only what one of them signed is loaded."""

    def __init__(
        self,
        tasks_dir: Path,
        model: ModelIdentity,
        num_layers: int,
        hidden_size: int,
        trusted: TrustedKeys | None = None,
    ) -> None:
        self.index = ArtifactIndex(tasks_dir)
        self.model, self.trusted = model, trusted
        self.num_layers, self.hidden_size = num_layers, hidden_size

    def load(self, digest: str) -> Artifact:
        """From the first folder where it is sound, as a damaged or unsigned copy harms no other.
        Raises ArtifactError."""
        for folder in self.index.find(digest):
            try:
                artifact = load_artifact(folder, self.model, digest, self.trusted)
                self._refuse_other_shape(artifact)
                return artifact
            except ArtifactError as error:
                refusal = error
        raise refusal

    def label_rows(self, task: TaskKey) -> Tensor | None:
        """A task's label rows [labels, hidden]; None, which is logged, if it cannot be loaded or
        has none."""
        try:
            return self.load(task.digest).tensors.get("label_rows")
        except Exception as error:  # of any kind: it would end the engine
            log_unavailable(task, error)
            return None

    def _refuse_other_shape(self, artifact: Artifact) -> None:
        """An artifact's shape is its own claim; one that does not fit would end the engine."""
        layers, hidden = artifact.spec.num_layers, artifact.spec.hidden_size
        if (layers, hidden) != (self.num_layers, self.hidden_size):
            raise ArtifactError(
                f"its vectors are for {layers} layers of width {hidden}, the served model has "
                f"{self.num_layers} of width {self.hidden_size}; calibrate it again"
            )


def log_unavailable(task: TaskKey, error: Exception) -> None:
    """Say, and count, that a task could not be loaded."""
    logger.error(
        "task %s is unavailable until its folder changes: %s",
        task.digest[:16],
        error,
        exc_info=not isinstance(error, ArtifactError),
    )
    metrics.FAILURES.inc()
