"""What the engine's workers must know about tasks: vLLM's `additional_config`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifedicl_serve import __version__
from ifedicl_serve.contract.signing import TrustedKeys


@dataclass(frozen=True)
class TaskConfig:
    """Where artifacts are, how many may be resident in a worker at once, and who must sign them.

    None means one per concurrent request, so that a batch of distinct tasks always fits, and that
    nobody need sign.
    """

    tasks_dir: Path
    max_resident_tasks: int | None = None
    trusted: TrustedKeys | None = None

    def compute_hash(self) -> str:
        """vLLM's compile-cache key: what shapes the compiled graph, so neither folder nor keys."""
        shape = f"ifedicl {__version__} max_resident_tasks={self.max_resident_tasks}"
        return hashlib.sha256(shape.encode()).hexdigest()

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

    def resident_tasks(self, max_num_seqs: int) -> int:
        """Tasks to have slots for. Raises ValueError if a batch of distinct ones would not fit."""
        if self.max_resident_tasks is None:
            return max_num_seqs
        if self.max_resident_tasks < max_num_seqs:
            raise ValueError(
                f"--max-resident-tasks is {self.max_resident_tasks}, but a batch may hold "
                f"{max_num_seqs} requests of as many tasks; raise it or lower --max-num-seqs"
            )
        return self.max_resident_tasks
