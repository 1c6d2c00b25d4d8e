"""How far a calibration has come, saved after every stage, so a killed run continues.

One safetensors file, its JSON in the metadata, replaced atomically. A fingerprint of settings,
model and data stands in it: a state is only ever continued by the run that made it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from calibration.model.sites import first_values, injection_of
from calibration.settings import Settings, SiteFit
from ifedicl_serve.contract.injection import Injection
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.errors import DataError
from ifedicl_serve.files.writing import write_file

STATE_FILE = "calibration.safetensors"


Losses = list[list[list[float]]]  # by round, client and step


@dataclass(frozen=True)
class State:
    """The global context vector [layers, 2, hidden] (None: nothing is fitted at the sites); by what
    is fitted there the values before the first round and after each, [rounds done + 1, layers, 2,
    ...], its losses, and held-out losses; warnings; and what only a federation must remember, as
    JSON holds it.

    `held_out` are mean losses of channels after each round, where there are rows to tell them;
    `starts` what was said of a task to begin from.
    """

    context_vector: Tensor | None = None
    values: dict[SiteFit, Tensor] = field(default_factory=dict)
    losses: dict[SiteFit, Losses] = field(default_factory=dict)
    held_out: list[float] = field(default_factory=list)
    starts: dict[SiteFit, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    federation: dict[str, Any] = field(default_factory=dict)

    def begun(self, fit: SiteFit, settings: Settings) -> "State":
        """With a fit at its start values, unless it has begun."""
        if fit in self.values:
            return self
        assert self.context_vector is not None
        first = first_values(fit, self.context_vector, settings)
        return replace(
            self, values=self.values | {fit: first.unsqueeze(0)}, losses=self.losses | {fit: []}
        )

    def started(self, fit: SiteFit, values: Tensor, told: Mapping[str, Any]) -> "State":
        """With a fit at other values than it begins with, and what is told of them."""
        begun = self.values | {fit: values.unsqueeze(0)}
        return replace(self, values=begun, starts=self.starts | {fit: dict(told)})

    def rounds_done(self, fit: SiteFit) -> int:
        return len(self.losses.get(fit, []))

    @property
    def clients(self) -> Sequence[int]:
        """The clients' numbers, in the order of a round's losses."""
        first = next(losses[0] for losses in self.losses.values() if losses)
        return self.federation.get("clients", range(len(first)))

    def current(self, fit: SiteFit) -> Tensor:
        """The values [layers, 2, ...] that open the next round."""
        return self.values[fit][-1]

    def best_round(self, fit: SiteFit) -> int:
        """After how many rounds the values were best: all, or those of the lowest held-out loss."""
        told = self.held_out if fit == "channels" else []
        return 1 + told.index(min(told)) if told else self.rounds_done(fit)

    def best(self, fit: SiteFit) -> Tensor:
        """The values to keep."""
        return self.values[fit][self.best_round(fit)]

    def injection(self, fit: Fit, values: Tensor | None = None) -> Injection | None:
        """The injection of values, or of those to keep; None if nothing is fitted at the sites."""
        if fit == "none":
            return None
        assert self.context_vector is not None
        kept = self.best(fit) if values is None else values
        return injection_of(fit, self.context_vector)(kept)

    def after_round(self, fit: SiteFit, values: Tensor, losses: list[list[float]]) -> "State":
        """The state one round later."""
        history = torch.cat([self.values[fit], values.unsqueeze(0)])
        return replace(
            self,
            values=self.values | {fit: history},
            losses=self.losses | {fit: [*self.losses[fit], losses]},
        )

    def judged(self, loss: float | None) -> "State":
        """With the mean held-out loss of the current channels, if there are rows to tell it."""
        return self if loss is None else replace(self, held_out=[*self.held_out, loss])

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
        vector = tensors.pop("context_vector", None)
        return State(context_vector=vector, values=tensors, **record)

    def save(self, state: State) -> None:
        """Replace the saved state; a kill at any moment leaves the old or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {
            "fingerprint": self.fingerprint,
            "losses": state.losses,
            "held_out": state.held_out,
            "starts": state.starts,
            "warnings": state.warnings,
            "federation": state.federation,
        }
        tensors: dict[str, Tensor] = {fit: t.contiguous() for fit, t in state.values.items()}
        if state.context_vector is not None:
            tensors["context_vector"] = state.context_vector.contiguous()
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
