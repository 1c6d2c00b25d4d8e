"""A worker's slot tables: which artifact sits in which slot, and which slot each token uses.

Content-addressed and loaded on demand: every rank and replica derives the same state from
the same folder, so nothing is broadcast. Slot 0 is the identity. Slot 1 is for tasks that could
not be loaded: the identity, but for NaN at the very last site, so that no answer comes of it,
while the cached KV stays finite. Knows tensors and folders, nothing of vLLM.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ifedicl_serve.contract.injection import SITES, Injection
from ifedicl_serve.errors import ArtifactError
from ifedicl_serve.plugin import counters as metrics
from ifedicl_serve.plugin.artifacts import WorkerArtifacts, log_unavailable
from ifedicl_serve.plugin.label_rows import LabelRows
from ifedicl_serve.plugin.request import Adaptation, TaskKey

logger = logging.getLogger("vllm.ifedicl")

IDENTITY_SLOT, FAILED_SLOT = 0, 1
RESERVED_SLOTS = 2
MAX_FAILED = 1 << 18  # about 80 MB; who may name any digest could else fill the memory


class SlotTables:
    """`scale` (float32) and `shift` [layers, 2, slots, hidden], and `token_slots` [tokens].

    The tensors keep their addresses for life, as captured graphs read them. `layers` is the
    range of decoder layers this worker holds of the model's. `label_rows` is told those of the
    tasks that are loaded; None where nobody scores them.
    """

    def __init__(
        self,
        artifacts: WorkerArtifacts,
        layers: range,
        num_tasks: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        label_rows: LabelRows | None = None,
    ) -> None:
        self.artifacts, self.layers, self.label_rows = artifacts, layers, label_rows
        shape = (len(layers), len(SITES), RESERVED_SLOTS + num_tasks, artifacts.hidden_size)
        self.scale = torch.ones(shape, dtype=torch.float32, device=device)
        self.shift = torch.zeros(shape, dtype=dtype, device=device)
        if layers.stop == artifacts.num_layers:
            self.shift[-1, -1, FAILED_SLOT] = torch.nan
        self.token_slots = torch.zeros(max_tokens, dtype=torch.int64, device=device)
        self._slots: OrderedDict[TaskKey, int] = OrderedDict()  # oldest use first
        # For good: KV of their unadapted tokens may be cached under the salt of the key. So none is
        # forgotten, and once there is no room for more, none is loaded that may have failed.
        self._failed: set[TaskKey] = set()
        self._free = list(range(RESERVED_SLOTS, RESERVED_SLOTS + num_tasks))[::-1]
        self._tokens_used = 0
        logger.info("Slots for %d resident tasks, %.1f MiB", num_tasks, self.nbytes / 2**20)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables, and of the label rows."""
        rows = 0 if self.label_rows is None else self.label_rows.nbytes
        return self.scale.nbytes + self.shift.nbytes + rows

    def holds(self, task: TaskKey) -> bool:
        """Whether the artifact is resident."""
        return task in self._slots

    def assign(
        self,
        adaptations: Sequence[Adaptation],
        computed: npt.NDArray[np.integer],
        counts: npt.NDArray[np.integer],
    ) -> None:
        """Point every token of a batch at its request's slot, loading artifacts as needed.

        Per request, in batch order: its adaptation, how many of its tokens were computed before
        (that is the position of its first token), and how many this batch computes. At most as
        many distinct artifacts as there are slots. Tokens before the adaptation starts read the
        identity.

        An artifact that cannot be loaded is logged and its requests get NaN. It is not tried again
        under this key: its requests' KV must not meet those of a later success. The next generation
        has a key, and so a salt, of its own.
        """
        tasks = [adaptation.task for adaptation in adaptations]
        wanted = dict.fromkeys(task for task in tasks if task is not None)
        metrics.QUERIES.inc(len(wanted))
        metrics.measure_memory("worker")
        for task in wanted:
            if task in self._slots:
                self._slots.move_to_end(task)  # now newer than anything this batch may evict
        for task in wanted:
            if task not in self._slots and task not in self._failed:
                self._load(task)
        slots = [self._slots.get(task, FAILED_SLOT) if task else IDENTITY_SLOT for task in tasks]
        starts = [adaptation.start for adaptation in adaptations]
        of_slots, of_starts = np.array([slots, starts], dtype=np.int64)
        self._point_tokens(_token_slots(of_slots, of_starts, computed, counts))

    def _load(self, task: TaskKey) -> None:
        if len(self._failed) >= MAX_FAILED:
            logger.error(
                "task %s is not loaded: %d others failed before, and no more can be remembered; "
                "restart the server",
                task.digest[:16],
                MAX_FAILED,
            )
            metrics.FAILURES.inc()
            return
        try:
            artifact = self.artifacts.load(task.digest)
            injection = self._own(artifact.injection)
        except Exception as error:  # of any kind: it would end the engine
            log_unavailable(task, error)
            self._failed.add(task)
            return
        slot = self._free.pop() if self._free else self._evict()
        self.scale[:, :, slot].copy_(injection.scale)
        self.shift[:, :, slot].copy_(injection.shift)
        if self.label_rows is not None and "label_rows" in artifact.tensors:
            self.label_rows.put(task, artifact.tensors["label_rows"])
        self._slots[task] = slot
        metrics.LOADS.inc()
        metrics.RESIDENT.set(len(self._slots))

    def _own(self, injection: Injection) -> Injection:
        """Of this worker's layers, in the dtypes of the tables."""
        shift = injection.shift.to(self.shift.dtype)
        if not shift.isfinite().all():
            raise ArtifactError(
                f"its shift (lambda times the context vector, where it has those) goes up to "
                f"{injection.shift.abs().max():.3g}, {shift.dtype} to "
                f"{torch.finfo(shift.dtype).max:.3g}; serve it in another --dtype or calibrate it "
                "again"
            )
        local = slice(self.layers.start, self.layers.stop)
        return Injection(injection.scale[local], shift[local])

    def _evict(self) -> int:
        metrics.EVICTIONS.inc()
        return self._slots.popitem(last=False)[1]

    def _point_tokens(self, token_slots: npt.NDArray[np.int64]) -> None:
        """Copy to the device; the tail that the last batch used returns to the identity."""
        used = max(len(token_slots), self._tokens_used)
        padded = np.zeros(used, dtype=np.int64)
        padded[: len(token_slots)] = token_slots
        self.token_slots[:used].copy_(_staged(padded, self.token_slots.device), non_blocking=True)
        self._tokens_used = len(token_slots)


def _token_slots(
    slots: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    computed: npt.NDArray[np.integer],
    counts: npt.NDArray[np.integer],
) -> npt.NDArray[np.int64]:
    """Slots [tokens] from each request's slot, start, tokens computed before and tokens.

    What failed fails from its first token on: with an empty tail no other would show it.
    """
    starts = np.where(slots == FAILED_SLOT, 0, starts)
    before = np.clip(starts - computed, 0, counts)
    identity = np.full_like(slots, IDENTITY_SLOT)
    return np.repeat(
        np.stack([identity, slots], axis=1).ravel(),
        np.stack([before, counts - before], axis=1).ravel(),
    )


def _staged(values: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """A fresh host tensor, pinned for a GPU: the last copy may still be reading the old one."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor
