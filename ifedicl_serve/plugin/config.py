"""What the engine's workers must know about tasks: vLLM's `additional_config`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifedicl_serve import __version__


@dataclass(frozen=True)
class TaskConfig:
    """Where artifacts are, and how many may be resident in a worker at once.

    `slots` counts the identity in slot 0. None means one per concurrent request and the
    identity, so that a batch of distinct tasks always fits.
    """

    tasks_dir: Path
    slots: int | None = None

    def compute_hash(self) -> str:
        """vLLM's compile-cache key: what shapes the compiled graph, so not the folder."""
        return hashlib.sha256(f"ifedicl {__version__} slots={self.slots}".encode()).hexdigest()

    @classmethod
    def of(cls, vllm_config: Any) -> "TaskConfig":
        """Read it from an engine's configuration. Raises ValueError if it is missing."""
        config = vllm_config.additional_config
        if not isinstance(config, cls):
            raise ValueError(
                f"additional_config is {type(config).__name__}, expected a TaskConfig naming the "
                "artifact folder; start the engine with `ifedicl serve --tasks DIR`"
            )
        return config

    def num_slots(self, max_num_seqs: int) -> int:
        """Slots to allocate. Raises ValueError if a batch of distinct tasks would not fit."""
        needed = max_num_seqs + 1
        if self.slots is not None and self.slots < needed:
            raise ValueError(
                f"{self.slots} task slots for batches of up to {max_num_seqs} requests; need at "
                f"least {needed}: raise --max-resident-tasks or lower --max-num-seqs"
            )
        return self.slots or needed
