"""A worker's slot tables: which artifact sits in which slot, and which slot each token uses.

Content-addressed and loaded on demand: every rank and replica derives the same state from
the same folder, so nothing is broadcast. Slot 0 is the identity, and so is slot 1, which marks the
tokens whose artifact could not be loaded. Knows tensors and folders, nothing of vLLM.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ifedicl_serve.artifact import Artifact, load_artifact
from ifedicl_serve.errors import ArtifactError
from ifedicl_serve.folder import ArtifactIndex
from ifedicl_serve.identity import ModelIdentity
from ifedicl_serve.injection import SITES, fold
from ifedicl_serve.plugin import metrics
from ifedicl_serve.plugin.request import TaskKey

logger = logging.getLogger("vllm.ifedicl")

IDENTITY_SLOT, FAILED_SLOT = 0, 1


class SlotTables:
    """`scale` [layers, 2, slots], `shift` [layers, 2, slots, hidden], `token_slots` [tokens].

    The tensors keep their addresses for life, as captured graphs read them. `layers` is the
    range of decoder layers this worker holds. `num_slots` counts the identity, not `FAILED_SLOT`.
    """

    def __init__(
        self,
        tasks_dir: Path,
        model: ModelIdentity,
        layers: range,
        hidden_size: int,
        num_slots: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.model, self.layers = model, layers
        self.index = ArtifactIndex(tasks_dir)
        shape = (len(layers), len(SITES), num_slots + 1)
        self.scale = torch.ones(shape, dtype=torch.float32, device=device)
        self.shift = torch.zeros(*shape, hidden_size, dtype=dtype, device=device)
        self.token_slots = torch.zeros(max_tokens, dtype=torch.int64, device=device)
        self._slots: OrderedDict[TaskKey, int] = OrderedDict()  # oldest use first
        # For good: KV of their unadapted tokens may be cached under the salt of the key.
        self._failed: set[TaskKey] = set()
        self._free = list(range(num_slots, FAILED_SLOT, -1))
        self._tokens_used = 0
        logger.info(
            "Task slots: %d beside the identity, %.1f MiB", num_slots - 1, self.nbytes / 2**20
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return self.scale.nbytes + self.shift.nbytes

    def holds(self, task: TaskKey) -> bool:
        """Whether the artifact is resident, so that requests naming it were adapted by it."""
        return task in self._slots

    def assign(self, tasks: Sequence[TaskKey | None], counts: npt.NDArray[np.integer]) -> None:
        """Point every token of a batch at its request's slot, loading artifacts as needed.

        `tasks` names one artifact (or None) per request and `counts` its tokens, in batch
        order; at most as many distinct artifacts as there are slots. An artifact that cannot
        be loaded is logged and leaves its tokens unadapted at `FAILED_SLOT`; `holds` tells the
        pooler. It is not tried again under this key: its requests' KV must not meet those of a
        later success. The next generation has a key, and so a salt, of its own.
        """
        wanted = dict.fromkeys(task for task in tasks if task is not None)
        metrics.QUERIES.inc(len(wanted))
        for task in wanted:
            if task in self._slots:
                self._slots.move_to_end(task)  # now newer than anything this batch may evict
        for task in wanted:
            if task not in self._slots and task not in self._failed:
                self._load(task)
        slots = [self._slots.get(task, FAILED_SLOT) if task else IDENTITY_SLOT for task in tasks]
        self._point_tokens(np.repeat(np.asarray(slots, dtype=np.int64), counts))

    def _load(self, task: TaskKey) -> None:
        try:
            artifact = load_artifact(self.index.find(task.digest), self.model, task.digest)
            self._refuse_other_shape(artifact)
        except ArtifactError as error:
            logger.error(
                "task %s is unavailable until its folder changes: %s", task.digest[:16], error
            )
            self._failed.add(task)
            metrics.FAILURES.inc()
            return
        slot = self._free.pop() if self._free else self._evict()
        injection = fold(artifact.context_vector, artifact.coefficients)
        local = slice(self.layers.start, self.layers.stop)
        self.scale[:, :, slot].copy_(injection.scale[local])
        self.shift[:, :, slot].copy_(injection.shift[local])
        self._slots[task] = slot
        metrics.LOADS.inc()
        metrics.RESIDENT.set(len(self._slots))

    def _evict(self) -> int:
        metrics.EVICTIONS.inc()
        return self._slots.popitem(last=False)[1]

    def _refuse_other_shape(self, artifact: Artifact) -> None:
        """An artifact's shape is its own claim; one that does not fit would end the engine."""
        layers, _, hidden = artifact.context_vector.shape
        if layers < self.layers.stop or hidden != self.shift.shape[-1]:
            raise ArtifactError(
                f"its vectors are for {layers} layers of width {hidden}, the served model has at "
                f"least {self.layers.stop} of width {self.shift.shape[-1]}; calibrate it again"
            )

    def _point_tokens(self, token_slots: npt.NDArray[np.int64]) -> None:
        """Copy to the device; the tail that the last batch used returns to the identity."""
        used = max(len(token_slots), self._tokens_used)
        padded = np.zeros(used, dtype=np.int64)
        padded[: len(token_slots)] = token_slots
        self.token_slots[:used].copy_(_staged(padded, self.token_slots.device), non_blocking=True)
        self._tokens_used = len(token_slots)


def _staged(values: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """A fresh host tensor, pinned for a GPU: the last copy may still be reading the old one."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor
