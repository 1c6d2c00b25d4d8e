"""What no honest client sends: values and vectors that would spoil the average, and sums that are
not sums over so many rows.
"""

from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from torch import Tensor

from calibration.federation.wire.messages import LARGEST_LOSS
from calibration.model.sites import SCALE, SHIFT
from calibration.readout.noisy import NoisySums
from calibration.settings import SiteFit
from ifedicl_serve.errors import FederationError
from ifedicl_serve.fitting.judge import PREDICTED, RIGHT, TRUE, Judgement
from ifedicl_serve.fitting.stack import Curvature
from ifedicl_serve.fitting.statistics import Doubles, Statistics

LARGEST_ACTIVATION = 1e7  # some models exceed fp16's 65504; squares overflow at 1e19
LARGEST_COEFFICIENT = 100.0  # fitted ones stay within about 3, as do scales
LARGEST_NORM_RATIO = 10.0  # of a client's vector to the median client's
LARGEST_SUM = 1e30  # of readouts far off, which the search for one begins at
ROUNDING = 1e-4  # of sums in float32, relative
CONVEX = 1e-6  # how far below 0 a curvature may be, relative to the largest


def outsized(vectors: dict[int, Tensor]) -> list[int]:
    """Clients whose vector is far longer than the median one; two cannot outvote each other."""
    norms = {client: float(vector.norm()) for client, vector in vectors.items()}
    limit = LARGEST_NORM_RATIO * median(norms.values())
    return [client for client, norm in norms.items() if len(norms) > 2 and norm > limit]


def refuse_activations(vector: Tensor) -> None:
    """Raise FederationError for a value that no model's activations have."""
    _refuse_beyond(vector, LARGEST_ACTIVATION)


def refuse_values(fit: SiteFit, values: Tensor, untouched: Tensor, expected: Tensor) -> None:
    """Raise FederationError for values [layers, 2, ...] that no fit arrives at, or that are not
    the `expected` [sites, ...] at the sites `untouched` [layers, 2]."""
    if fit == "coefficients":
        _refuse_beyond(values, LARGEST_COEFFICIENT)
    else:
        _refuse_beyond(values[..., SCALE, :], LARGEST_COEFFICIENT)
        _refuse_beyond(values[..., SHIFT, :], LARGEST_ACTIVATION)
    if not torch.equal(values[untouched], expected):
        raise FederationError(f"sent {fit} for sites that the task does not adapt")


def refuse_statistics(by_fold: Sequence[Statistics], announced: int) -> None:
    """Raise FederationError for sums that are not over some of `announced` rows."""
    counts = np.array([one.counts for one in by_fold])
    _refuse_counts(counts)
    if counts.sum() > announced:
        raise FederationError(f"counts {counts.sum():g} rows, announced {announced}")
    for one in by_fold:
        _refuse_sums(one)


def _refuse_sums(one: Statistics) -> None:
    squares = np.diagonal(one.second, axis1=1, axis2=2).ravel()  # [hidden]
    counts = one.counts[:, None]
    means = one.class_sums / np.maximum(counts, 1)
    # Per label and coordinate the square of a sum is at most the number times the sum of squares.
    explained = (counts * means**2).sum(axis=0) * (1 - ROUNDING)
    if not (
        (np.abs(one.class_sums) <= LARGEST_ACTIVATION * counts).all()
        and (explained <= squares).all()
        and (squares <= one.rows * LARGEST_ACTIVATION**2).all()
        and _bounded_by_diagonal(one.second)
        and (one.log_probs <= 0).all()
        and (one.log_probs >= -one.rows * LARGEST_LOSS).all()
    ):
        raise FederationError(f"sent statistics that are not of {one.rows:g} rows")


def refuse_noisy(sums: NoisySums, announced: int) -> None:
    """Raise FederationError for noisy sums of other rows than announced, or beyond all noise."""
    if sums.rows != announced:
        raise FederationError(f"counts {sums.rows:g} rows, announced {announced}")
    if not (sums.variances > 0).all() or not np.abs(sums.reference).max() > 0:
        raise FederationError("sent sums without noise, or from no reference")
    told = (sums.reference, sums.counts, sums.class_sums, sums.log_probs, sums.variances)
    if max(np.abs(part).max(initial=0.0) for part in told) > announced * LARGEST_ACTIVATION:
        raise FederationError(f"sent sums that are not of {announced} rows")


def refuse_gradient(gradient: Doubles) -> None:
    """Raise FederationError for a gradient that no step could follow."""
    largest = float(np.abs(gradient).max())
    if largest > LARGEST_SUM:
        raise FederationError(
            f"sent a derivative of {largest:.3g}, expected within {LARGEST_SUM:g}"
        )


def refuse_losses(losses: Sequence[float]) -> None:
    """Raise FederationError for what is no loss."""
    for loss in losses:
        if not 0 <= loss <= LARGEST_SUM:
            raise FederationError(f"sent a loss of {loss:.3g}, expected 0 to {LARGEST_SUM:g}")


def refuse_curvature(one: Curvature) -> None:
    """Raise FederationError for derivatives of nothing convex, which no step could follow."""
    for part in (one.gradient, one.hessian):
        refuse_gradient(part)
    hessian = one.hessian / (1 + np.abs(np.diagonal(one.hessian)).max())
    try:
        np.linalg.cholesky(hessian + CONVEX * np.eye(len(hessian)))  # reads the lower half
    except np.linalg.LinAlgError as error:
        raise FederationError("sent second derivatives of nothing convex") from error
    if (np.abs(hessian - hessian.T) > CONVEX).any():
        raise FederationError("sent second derivatives that are not symmetric")


def refuse_judgement(judgement: Judgement) -> None:
    """Raise FederationError for losses and counts that are not of so many rows."""
    rows, losses, products = judgement.rows, judgement.losses, judgement.products
    squares = np.diagonal(products)
    if not (
        (losses >= 0).all()
        and (losses <= rows * LARGEST_LOSS).all()
        and (products >= 0).all()
        and (losses**2 * (1 - ROUNDING) <= rows * squares).all()
        and (squares <= losses * LARGEST_LOSS).all()
        and _bounded_by_diagonal(products[None])
    ):
        raise FederationError(f"sent losses that are not of {rows} rows")
    counts = judgement.counts
    _refuse_counts(counts)
    right, predicted, true = (counts[:, which] for which in (RIGHT, PREDICTED, TRUE))
    if not (
        (predicted.sum(axis=1) == rows).all()
        and (true.sum(axis=1) == rows).all()
        and (true == true[0]).all()
        and (right <= np.minimum(predicted, true)).all()
    ):
        raise FederationError(f"sent counts of labels that are not of {rows} rows")


def _bounded_by_diagonal(blocks: Doubles) -> bool:
    """Whether no product of two exceeds those of each with itself, in blocks [..., n, n]."""
    size = np.sqrt(np.maximum(np.diagonal(blocks, axis1=1, axis2=2), 0))
    limits = size[:, :, None] * size[:, None, :] * (1 + ROUNDING)
    return bool((np.abs(blocks) <= limits).all())


def _refuse_counts(counts: Doubles) -> None:
    if not ((counts >= 0).all() and (counts == np.rint(counts)).all()):
        raise FederationError("sent counts that are negative or not whole")


def _refuse_beyond(tensor: Tensor, largest: float) -> None:
    seen = float(tensor.abs().max())
    if seen > largest:
        raise FederationError(f"sent a value of {seen:.3g}, expected within {largest:g}")
