"""FedAvg, on the server: the mean of client tensors, weighted by their example counts.

    w = sum(n_k w_k) / sum(n_k)      (McMahan et al., arXiv 1602.05629)

First everything is checked, then the arithmetic has no ifs. Sums are in float64, so equal
inputs give exactly that value back: an untouched layer's beta stays 1. The other rules, for
poisoned clients, are in `robust`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from ifedicl_serve.errors import DataError

# Client tensors of one shape and their example counts -> one tensor of that shape, float32.
Aggregate = Callable[[Sequence[Tensor], Sequence[int]], Tensor]


def fedavg(tensors: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The weighted mean, float32. Raises DataError naming the client that does not fit."""
    check_tensors(tensors, counts)
    total = sum(count * tensor.double() for tensor, count in zip(tensors, counts, strict=True))
    return (total / sum(counts)).float()  # type: ignore[union-attr]


def aggregate_vectors(vectors: Sequence[ClientVector], rule: Aggregate = fedavg) -> Tensor:
    """The global context vector [layers, 2, hidden]."""
    return rule([client.vector for client in vectors], [client.count for client in vectors])


def aggregate_updates(updates: Sequence[ClientUpdate], rule: Aggregate = fedavg) -> Tensor:
    """The values [layers, 2, ...] that open the next round."""
    return rule([client.values for client in updates], [u.count for u in updates])


def check_tensors(tensors: Sequence[Tensor], counts: Sequence[int]) -> None:
    """Raise DataError, naming the client, for what no rule can merge."""
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
