"""What readouts are fitted from and rungs are judged by, as arrays: sums over rows, and what is
asked for of them.

Both sides read here what the other wrote: names, types and shapes that follow from the invitation
and from what was asked. Which values a client may claim is `coordinator.checks`'s to know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import get_args

import numpy as np
from flwr.app import ArrayRecord

from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import array_record, arrays_of
from calibration.federation.wire.tensors import Layout
from calibration.ladder import private_rung
from calibration.readout.noisy import NOISES, NoisySums
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.errors import FederationError
from ifedicl_serve.fitting.directions import STRENGTHS
from ifedicl_serve.fitting.fit import Stack
from ifedicl_serve.fitting.folds import FOLDS
from ifedicl_serve.fitting.judge import Judgement
from ifedicl_serve.fitting.rungs import Rung
from ifedicl_serve.fitting.stack import BIAS, STARTS, Asked, Curvature
from ifedicl_serve.fitting.statistics import Doubles, Statistics, block_size

FITS: tuple[Fit, ...] = get_args(Fit)  # that rows are read under
MAX_ASKED = len(FITS) * (1 + len(STRENGTHS)) * len(STARTS)  # in one message
NO_FOLD = -1


def statistics_record(statistics: Sequence[Statistics]) -> ArrayRecord:
    """Statistics, by fold under one fit after the other, in float32 as they are `rounded`."""
    names = ("counts", "class_sums", "second", "log_probs")
    return array_record(
        {
            name: np.stack([getattr(part, name) for part in statistics]).astype(np.float32)
            for name in names
        }
    )


def statistics_of(
    record: ArrayRecord | None, invitation: Invitation, fits: Sequence[Fit]
) -> dict[Fit, list[Statistics]]:
    """Statistics of these fits, by fold. Raises FederationError."""
    labels, hidden = len(invitation.labels), invitation.hidden_size
    size, count = block_size(hidden), len(fits) * FOLDS
    expected: Layout = {
        "counts": (np.float32, (count, labels)),
        "class_sums": (np.float32, (count, labels, hidden)),
        "second": (np.float32, (count, hidden // size, size, size)),
        "log_probs": (np.float32, (count, labels)),
    }
    arrays = arrays_of(record, expected)
    parts = [
        Statistics(**{name: values[i].astype(float) for name, values in arrays.items()})
        for i in range(count)
    ]
    return {fit: parts[i * FOLDS : (i + 1) * FOLDS] for i, fit in enumerate(fits)}


def noisy_record(sums: NoisySums) -> ArrayRecord:
    """A private client's sums, in float32 as they are `rounded`."""
    parts = {
        field.name: np.asarray(getattr(sums, field.name), np.float32) for field in fields(sums)
    }
    return array_record(parts | {"rows": np.array([sums.rows])})


def noisy_of(record: ArrayRecord | None, invitation: Invitation) -> NoisySums:
    """A private client's sums. Raises FederationError."""
    labels, hidden = len(invitation.labels), invitation.hidden_size
    told = hidden if private_rung(invitation.settings).readout == "head" else 0
    expected: Layout = {
        "rows": (np.float64, (1,)),
        "reference": (np.float32, (hidden,)),
        "counts": (np.float32, (labels,)),
        "class_sums": (np.float32, (labels, told)),
        "log_probs": (np.float32, (labels,)),
        "variances": (np.float32, (len(NOISES),)),
    }
    arrays = {name: array.astype(float) for name, array in arrays_of(record, expected).items()}
    return NoisySums(float(arrays.pop("rows")[0]), **arrays)


def theta_record(theta: Doubles) -> ArrayRecord:
    """What a gradient is asked for at."""
    return array_record({"theta": theta})


def theta_of(record: ArrayRecord | None, labels: int) -> Doubles:
    """The same. Raises FederationError."""
    return arrays_of(record, {"theta": (np.float64, (BIAS + labels,))})["theta"]


def gradient_record(gradient: Doubles) -> ArrayRecord:
    """A gradient."""
    return array_record({"gradient": gradient})


def gradient_of(record: ArrayRecord | None, labels: int) -> Doubles:
    """The same. Raises FederationError."""
    return arrays_of(record, {"gradient": (np.float64, (BIAS + labels,))})["gradient"]


def asked_record(asked: Sequence[Asked]) -> ArrayRecord:
    """What sums are asked for."""
    left_out = [NO_FOLD if one.left_out is None else one.left_out for one in asked]
    return array_record(
        {
            "fit": np.array([FITS.index(one.fit) for one in asked], dtype=np.int64),
            "strength": np.array([one.strength for one in asked], dtype=np.int64),
            "left_out": np.array(left_out, dtype=np.int64),
            "theta": np.array([one.theta for one in asked]),
        }
    )


def asked_of(record: ArrayRecord | None, count: int, labels: int) -> list[Asked]:
    """`count` of them. Raises FederationError."""
    if not 1 <= count <= MAX_ASKED:
        raise FederationError(f"was asked for {count} sums at once, expected 1 to {MAX_ASKED}")
    expected: Layout = {
        "fit": (np.int64, (count,)),
        "strength": (np.int64, (count,)),
        "left_out": (np.int64, (count,)),
        "theta": (np.float64, (count, BIAS + labels)),
    }
    arrays = arrays_of(record, expected)
    fits, strengths, folds = (arrays[name].tolist() for name in ("fit", "strength", "left_out"))
    _refuse_beyond("fits", fits, len(FITS))
    _refuse_beyond("strengths", strengths, len(STRENGTHS))
    if not all(fold in range(NO_FOLD, FOLDS) for fold in folds):
        raise FederationError(f"was asked to leave out folds {folds}, of {FOLDS}")
    return [
        Asked(FITS[fit], strength, None if fold == NO_FOLD else fold, theta)
        for fit, strength, fold, theta in zip(fits, strengths, folds, arrays["theta"], strict=True)
    ]


def losses_record(losses: Sequence[float]) -> ArrayRecord:
    """A loss for each that was asked for."""
    return array_record({"losses": np.array(losses)})


def losses_of(record: ArrayRecord | None, count: int) -> list[float]:
    """`count` of them. Raises FederationError."""
    return arrays_of(record, {"losses": (np.float64, (count,))})["losses"].tolist()


def curvatures_record(curvatures: Sequence[Curvature]) -> ArrayRecord:
    """Losses with derivatives for each that was asked for."""
    parts = zip(Curvature._fields, zip(*curvatures, strict=True), strict=True)
    return array_record({name: np.array(values) for name, values in parts})


def curvatures_of(record: ArrayRecord | None, count: int, labels: int) -> list[Curvature]:
    """`count` of them. Raises FederationError."""
    size = BIAS + labels
    expected: Layout = {
        "loss": (np.float64, (count,)),
        "gradient": (np.float64, (count, size)),
        "hessian": (np.float64, (count, size, size)),
    }
    arrays = arrays_of(record, expected)
    parts = zip(arrays["loss"].tolist(), arrays["gradient"], arrays["hessian"], strict=True)
    return [Curvature(*part) for part in parts]


def stacks_record(rungs: Sequence[Rung], stacks: Mapping[Rung, Stack], labels: int) -> ArrayRecord:
    """The readouts of those rungs that have one, in their order."""
    ordered = [stacks[rung] for rung in rungs if rung.readout != "none"]
    thetas = [[stack.whole, *stack.folds] for stack in ordered]
    return array_record(
        {
            "strength": np.array([stack.strength for stack in ordered], dtype=np.int64),
            "theta": np.array(thetas, dtype=float).reshape(-1, 1 + FOLDS, BIAS + labels),
        }
    )


def stacks_of(record: ArrayRecord | None, rungs: Sequence[Rung], labels: int) -> dict[Rung, Stack]:
    """The readouts of those rungs that have one. Raises FederationError."""
    read_out = [rung for rung in rungs if rung.readout != "none"]
    expected: Layout = {
        "strength": (np.int64, (len(read_out),)),
        "theta": (np.float64, (len(read_out), 1 + FOLDS, BIAS + labels)),
    }
    arrays = arrays_of(record, expected)
    strengths = arrays["strength"].tolist()
    _refuse_beyond("strengths", strengths, len(STRENGTHS))
    return {
        rung: Stack(strength, theta[0], list(theta[1:]))
        for rung, strength, theta in zip(read_out, strengths, arrays["theta"], strict=True)
    }


def judgement_record(judgement: Judgement) -> ArrayRecord:
    """A judgement but for its rows, which are a number of the answer."""
    return array_record(
        {
            "losses": judgement.losses,
            "products": judgement.products,
            "counts": judgement.counts,
        }
    )


def judgement_of(record: ArrayRecord | None, rows: int, rungs: int, labels: int) -> Judgement:
    """Of so many rows and rungs. Raises FederationError."""
    expected: Layout = {
        "losses": (np.float64, (rungs,)),
        "products": (np.float64, (rungs, rungs)),
        "counts": (np.float64, (rungs, 3, labels)),
    }
    return Judgement(rows, **arrays_of(record, expected))


def _refuse_beyond(name: str, positions: Sequence[int], known: int) -> None:
    if not all(position in range(known) for position in positions):
        raise FederationError(f"was asked for {name} {positions}, of {known}")
