"""The ladder: how much of a task may be fitted, from nothing to every channel and label rows.

A `Rung` is what is done at the sites and what with the labels' scores. Which of them are tried
follows from the settings and from how many rows there are to judge by; `fitting.judge` chooses.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from ifedicl_serve.errors import DataError
from ifedicl_serve.fitting.rungs import BARE_RUNGS, ZERO_SHOT, Rung

FitChoice = Literal["auto", "bias", "head", "coefficients", "channels"]
FITS: tuple[FitChoice, ...] = get_args(FitChoice)
ReadoutChoice = Literal["auto", "none", "bias", "head"]
READOUTS: tuple[ReadoutChoice, ...] = get_args(ReadoutChoice)


PAPERS = Rung("coefficients", "none")
# The simplest first: by what it costs to fit and to serve.
LADDER = (
    *BARE_RUNGS,
    PAPERS,
    Rung("coefficients", "bias"),
    Rung("coefficients", "head"),
    Rung("channels", "none"),
    Rung("channels", "bias"),
    Rung("channels", "head"),
)


def rungs_of(fit: FitChoice, readout: ReadoutChoice) -> tuple[Rung, ...]:
    """Those that were asked for, the simplest first. Raises DataError for a contradiction."""
    if fit in ("bias", "head") and readout not in ("auto", fit):
        raise DataError(
            f"fit {fit!r} is a readout by itself, so readout {readout!r} contradicts it; leave "
            "--readout out, or fit coefficients or channels"
        )
    sites, reads = ("none", fit) if fit in ("bias", "head") else (fit, readout)
    return tuple(
        rung for rung in LADDER if sites in ("auto", rung.fit) and reads in ("auto", rung.readout)
    )


class Choices(Protocol):
    """What settings say of rungs."""

    @property
    def fit(self) -> FitChoice: ...
    @property
    def readout(self) -> ReadoutChoice: ...
    @property
    def least_held_out(self) -> int: ...
    @property
    def aggregation(self) -> str: ...
    @property
    def private(self) -> bool: ...


def allowed(settings: Choices) -> tuple[Rung, ...]:
    """Those of the rungs that were asked for that clients can fit. Raises DataError for none.

    A readout is fitted from sums over clients, in which nobody is outvoted.
    """
    rungs = rungs_of(settings.fit, settings.readout)
    if settings.aggregation == "fedavg":
        return rungs
    without = tuple(rung for rung in rungs if rung.readout == "none")
    if not without:
        raise DataError(
            f"readout {rungs[0].readout!r} is fitted from sums over clients, where "
            f"{settings.aggregation} outvotes nobody; aggregate with fedavg, or fit coefficients "
            "or channels with --readout none"
        )
    return without


def private_rung(settings: Choices) -> Rung:
    """The only one that private clients fit: they tell nothing to choose by, and every other would
    spend of their budget. Where it is left open, the paper's, and no readout."""
    rungs = allowed(settings)
    if PAPERS in rungs:
        return PAPERS
    return next((rung for rung in rungs if "none" in rung), rungs[-1])


def tried(settings: Choices, held_out: int) -> tuple[Rung, ...]:
    """Of the rungs that are allowed, those that so many held-out rows can tell apart.

    If all that is left is to fit nothing, it is the paper's.
    """
    if settings.private:
        return (private_rung(settings),)
    rungs = allowed(settings)
    if settings.fit == "auto" and held_out < settings.least_held_out:
        bare = tuple(rung for rung in rungs if rung.fit == "none")
        return (PAPERS,) if bare == (ZERO_SHOT,) else bare
    if held_out == 0:
        return tuple(rung for rung in rungs if "none" in rung) or rungs[-1:]
    return rungs
