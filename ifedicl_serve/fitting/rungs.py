"""A rung of the ladder: how much of a task is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ifedicl_serve.contract.spec import Fit, ReadoutKind


class Rung(NamedTuple):
    """What is fitted at the sites, and of the readout."""

    fit: Fit
    readout: ReadoutKind

    @property
    def name(self) -> str:
        """As `TaskSpec.rung`."""
        return "+".join(kind for kind in self if kind != "none") or "zero-shot"


ZERO_SHOT = Rung("none", "none")
# That adapt no token, the simplest first.
BARE_RUNGS = (ZERO_SHOT, Rung("none", "bias"), Rung("none", "head"))
