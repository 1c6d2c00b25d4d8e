"""How far a calibration has come, saved after every stage, so a killed run continues.

One safetensors file, its JSON in the metadata, replaced atomically. A fingerprint of settings,
model and data stands in it: a state is only ever continued by the run that made it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from calibration.settings import Settings
from ifedicl_serve.contract.injection import initial_coefficients
from ifedicl_serve.contract.spec import TensorName
from ifedicl_serve.errors import DataError
from ifedicl_serve.files.writing import write_file

STATE_FILE = "calibration.safetensors"


@dataclass(frozen=True)
class State:
    """The global context vector [layers, 2, hidden]; the coefficients before the first round and
    after each, [rounds done + 1, layers, 2, 2]; losses by round, client and step; warnings; and
    what only a federation must remember, as JSON holds it."""

    context_vector: Tensor
    coefficients: Tensor
    losses: list[list[list[float]]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    federation: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def first(cls, context_vector: Tensor, settings: Settings) -> "State":
        """That after stage 1: coefficients at their start values."""
        start = initial_coefficients(len(context_vector), settings.layers, settings.sites)
        return cls(context_vector, start.unsqueeze(0))

    @property
    def rounds_done(self) -> int:
        return len(self.losses)

    @property
    def clients(self) -> Sequence[int]:
        """The clients' numbers, in the order of a round's losses."""
        return self.federation.get("clients", range(len(self.losses[0])))

    @property
    def current(self) -> Tensor:
        return self.coefficients[-1]

    @property
    def tensors(self) -> dict[TensorName, Tensor]:
        """Those of the artifact it makes."""
        return {"context_vector": self.context_vector, "coefficients": self.current}

    def after_round(self, coefficients: Tensor, losses: list[list[float]]) -> "State":
        """The state one round later."""
        history = torch.cat([self.coefficients, coefficients.unsqueeze(0)])
        return replace(self, coefficients=history, losses=[*self.losses, losses])

    def warned(self, warnings: list[str]) -> "State":
        """The same state with more warnings."""
        return replace(self, warnings=[*self.warnings, *warnings])


@dataclass(frozen=True)
class StateStore:
    """A folder holding the state of one run."""

    folder: Path
    fingerprint: str

    @property
    def path(self) -> Path:
        return self.folder / STATE_FILE

    def load(self) -> State | None:
        """The saved state, or None. Raises DataError if it belongs to another run."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                record = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.path}: not a calibration state ({error}); remove it to start afresh"
            ) from error
        if record["fingerprint"] != self.fingerprint:
            raise DataError(
                f"{self.path}: made by a calibration with other settings, model or data, or by "
                "another version of ifedicl-serve; run that one again to finish it, or remove the "
                "folder to start afresh"
            )
        del record["fingerprint"]
        return State(**record, **tensors)

    def save(self, state: State) -> None:
        """Replace the saved state; a kill at any moment leaves the old or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {
            "fingerprint": self.fingerprint,
            "losses": state.losses,
            "warnings": state.warnings,
            "federation": state.federation,
        }
        tensors = {
            "context_vector": state.context_vector.contiguous(),
            "coefficients": state.coefficients.contiguous(),
        }
        write_file(self.path, save(tensors, metadata={"state": json.dumps(record)}))

    def remove(self) -> None:
        """Forget the state; other files in the folder are left alone."""
        self.path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def fingerprint(*parts: Any) -> str:
    """A digest of everything JSON can hold that makes a run what it is."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
