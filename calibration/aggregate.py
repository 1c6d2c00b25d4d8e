"""FedAvg, on the server: the mean of client tensors, weighted by their example counts.

    w = sum(n_k w_k) / sum(n_k)      (McMahan et al., arXiv 1602.05629)

First everything is checked, then the arithmetic has no ifs. Sums are in float64, so equal
inputs give exactly that value back: an untouched layer's beta stays 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from calibration.extract import ClientVector
from calibration.fit import ClientUpdate
from ifedicl_serve.errors import DataError


def fedavg(tensors: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The weighted mean, float32. Raises DataError naming the client that does not fit."""
    _check(tensors, counts)
    total = sum(count * tensor.double() for tensor, count in zip(tensors, counts, strict=True))
    return (total / sum(counts)).float()  # type: ignore[union-attr]


def aggregate_vectors(vectors: Sequence[ClientVector]) -> Tensor:
    """The global context vector [layers, 2, hidden]."""
    return fedavg([client.vector for client in vectors], [client.count for client in vectors])


def aggregate_updates(updates: Sequence[ClientUpdate]) -> Tensor:
    """The coefficients [layers, 2, 2] that open the next round."""
    return fedavg([client.coefficients for client in updates], [u.count for u in updates])


def _check(tensors: Sequence[Tensor], counts: Sequence[int]) -> None:
    if not tensors:
        raise DataError("no client sent anything to average; at least one is needed")
    for client, (tensor, count) in enumerate(zip(tensors, counts, strict=True)):
        if tensor.shape != tensors[0].shape:
            raise DataError(
                f"client {client} sent shape {tuple(tensor.shape)}, client 0 sent "
                f"{tuple(tensors[0].shape)}; all clients must run the same base model"
            )
        if not torch.isfinite(tensor).all():
            raise DataError(
                f"client {client} sent NaN or infinite values; leave it out or use fp32"
            )
        if count < 1:
            raise DataError(f"client {client} counts {count} examples, expected at least 1")
