"""Ways to merge client tensors, by name: FedAvg, and rules that outvote a poisoned client.

The robust rules are Flower's own strategies, given one message per client; this file knows how
to ask them and how many clients each needs, and no arithmetic. They assume that at most one
client in five is bad. Only Flower's FedAvg and Multi-Krum weigh clients by their examples: a
client could otherwise buy votes by claiming many.

    median        Yin et al., arXiv 1803.01498      coordinate by coordinate
    trimmed_mean  Yin et al., arXiv 1803.01498      without the fifth at each end
    krum          Blanchard et al., arXiv 1703.02757   the client nearest to the others
    multi_krum    the same                          FedAvg without the farthest fifth
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from calibration.stages.aggregate import Aggregate, check_tensors, fedavg
from ifedicl_serve.errors import DataError

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg

BAD_FRACTION = 0.2  # also Flower's default for the trimmed mean
LEAST_CLIENTS = {"median": 3, "trimmed_mean": 5, "krum": 5, "multi_krum": 5}


def refuse_few_voters(name: str, clients: int) -> None:
    """Raise DataError unless a rule can outvote anybody among so many clients."""
    least = LEAST_CLIENTS.get(name, 1)
    if clients < least:
        raise DataError(
            f"{name} outvotes nobody among {clients} clients, it needs at least {least}; wait "
            "for more clients or aggregate with fedavg"
        )


def _median(clients: int, bad: int) -> "FedAvg":
    from flwr.serverapp.strategy import FedMedian

    return FedMedian()


def _trimmed_mean(clients: int, bad: int) -> "FedAvg":
    from flwr.serverapp.strategy import FedTrimmedAvg

    return FedTrimmedAvg(beta=BAD_FRACTION)


def _krum(clients: int, bad: int) -> "FedAvg":
    from flwr.serverapp.strategy import Krum

    return Krum(num_malicious_nodes=bad)


def _multi_krum(clients: int, bad: int) -> "FedAvg":
    from flwr.serverapp.strategy import MultiKrum

    return MultiKrum(num_malicious_nodes=bad, num_nodes_to_select=clients - bad)


def _aggregate(
    name: str,
    strategy: "Callable[[int, int], FedAvg]",
    tensors: Sequence[Tensor],
    counts: Sequence[int],
) -> Tensor:
    """What Flower's strategy makes of the client tensors, float32."""
    check_tensors(tensors, counts)
    clients = len(tensors)
    refuse_few_voters(name, clients)
    messages = [_message(*sent) for sent in zip(tensors, counts, strict=True)]
    chosen = strategy(clients, int(BAD_FRACTION * clients))
    arrays, _ = chosen.aggregate_train(server_round=1, replies=messages)
    return torch.from_numpy(arrays["tensor"].numpy()).float()  # type: ignore[index]


def _message(tensor: Tensor, count: int) -> Any:
    """A client's reply as Flower's strategies expect it: one ArrayRecord, one MetricRecord.

    In float64, as FedAvg here: Krum's distances cancel badly in float32, and a weighted mean of
    equal values must be that value.
    """
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

    content = RecordDict(
        {
            "arrays": ArrayRecord({"tensor": Array(tensor.double().cpu().numpy())}),
            "metrics": MetricRecord({"num-examples": count}),
        }
    )
    return Message(content, dst_node_id=0, message_type="train")


AGGREGATORS: dict[str, Aggregate] = {
    "fedavg": fedavg,
    "median": partial(_aggregate, "median", _median),
    "trimmed_mean": partial(_aggregate, "trimmed_mean", _trimmed_mean),
    "krum": partial(_aggregate, "krum", _krum),
    "multi_krum": partial(_aggregate, "multi_krum", _multi_krum),
}
