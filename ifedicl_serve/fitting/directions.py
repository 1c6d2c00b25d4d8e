"""Label rows in closed form: shrunk class means over a shrunk pooled covariance.

    delta_k    = (mean_k - centre) n_k / (n_k + KAPPA)
    rows_k     = (W / n + strength / n * v I)^-1 delta_k
    constant_k = - rows_k . delta_k / 2

W is the scatter within labels and v the mean variance of a coordinate: Fisher's linear
discriminants, and from a certain strength on the nearest class mean. Which strength is right
depends on the set and on the number of rows, so several are made and held-out rows choose.
Measured against ridge and logistic regression in bench/results/trials.md.
"""

from typing import NamedTuple

import numpy as np

from ifedicl_serve.fitting.statistics import Doubles, Statistics

STRENGTHS = (10.0, 50.0, 250.0, 1250.0, 6000.0, 30000.0)
KAPPA = 0.5


class Directions(NamedTuple):
    """Rows [labels, hidden] and constants [labels] to score hidden states by."""

    rows: Doubles
    constants: Doubles

    def scores(self, hidden: Doubles) -> Doubles:
        """[..., labels] of hidden states [..., hidden]."""
        return hidden @ self.rows.T + self.constants


def directions(told: Statistics) -> list[Directions]:
    """For each strength. A label without rows has zeros."""
    n, counts = max(told.rows, 1.0), told.counts[:, None]
    centre = told.class_sums.sum(axis=0) / n
    delta = np.where(counts > 0, told.class_sums / np.maximum(counts, 1) - centre, 0.0)
    shrunk = delta * counts / (counts + KAPPA)
    size = told.second.shape[1]
    parts = [slice(start, start + size) for start in range(0, len(centre), size)]
    scatter = [
        block - n * np.outer(centre[part], centre[part])
        for part, block in zip(parts, told.second, strict=True)
    ]
    variance = max(sum(map(np.trace, scatter)) / n / len(centre), 1e-12)
    found = [np.zeros_like(delta) for _ in STRENGTHS]
    for part, block in zip(parts, scatter, strict=True):
        within = block - (delta[:, part] * counts).T @ delta[:, part]
        spread, basis = np.linalg.eigh(within / n)
        along = shrunk[:, part] @ basis
        for rows, strength in zip(found, STRENGTHS, strict=True):
            shrinkage = np.maximum(spread, 0) + strength / n * variance
            rows[:, part] = (along / shrinkage) @ basis.T
    # Scores are of a hidden state less the centre.
    return [Directions(rows, -rows @ centre - (rows * shrunk).sum(axis=1) / 2) for rows in found]
