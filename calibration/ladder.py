"""The ladder: how much of a task may be fitted, from nothing to every channel and label rows.

A rung is what is done at the sites and what with the labels' scores. Which of them are tried follows
from the settings; which is kept, from what held-out rows say: the simplest that is no worse than the
best by more than one standard error of the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ifedicl_serve.errors import DataError

if TYPE_CHECKING:
    from calibration.settings import FitChoice, ReadoutChoice
    from ifedicl_serve.contract.spec import Fit, ReadoutKind


class Rung(NamedTuple):
    """What is fitted at the sites, and of the readout."""

    fit: Fit
    readout: ReadoutKind

    @property
    def name(self) -> str:
        """As `TaskSpec.rung`."""
        return "+".join(kind for kind in self if kind != "none") or "zero-shot"


# The simplest first: by what it costs to fit and to serve.
LADDER = (
    Rung("none", "none"),
    Rung("none", "bias"),
    Rung("none", "head"),
    Rung("coefficients", "none"),
    Rung("coefficients", "bias"),
    Rung("coefficients", "head"),
    Rung("channels", "none"),
    Rung("channels", "bias"),
    Rung("channels", "head"),
)


def rungs_of(fit: FitChoice, readout: ReadoutChoice) -> tuple[Rung, ...]:
    """Those to try, the simplest first. Raises DataError if there are none."""
    if fit in ("bias", "head") and readout not in ("auto", fit):
        raise DataError(
            f"fit {fit!r} is a readout by itself, so readout {readout!r} contradicts it; leave "
            "--readout out, or fit coefficients or channels"
        )
    sites, reads = ("none", fit) if fit in ("bias", "head") else (fit, readout)
    return tuple(
        rung for rung in LADDER if sites in ("auto", rung.fit) and reads in ("auto", rung.readout)
    )
