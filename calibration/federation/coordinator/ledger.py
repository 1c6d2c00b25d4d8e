"""Bytes on the wire: what every message weighed, by client and kind.

`payload` counts the values of tensors. `total` counts everything Flower serialises for a
message's content: array headers, numbers, names. gRPC, TLS and TCP framing come on top.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_object import InflatableObject

Way = Literal["down", "up"]
NUMPY_HEADER = 128  # bytes before the values of an array


class Flow(NamedTuple):
    """A client (-1 before it has introduced itself), a kind of message and a direction."""

    client: int
    kind: str
    way: Way


class Ledger:
    """Messages, payload bytes and total bytes of every flow."""

    def __init__(self, rows: list[list]) -> None:
        self.messages: Counter[Flow] = Counter()
        self.payload: Counter[Flow] = Counter()
        self.total: Counter[Flow] = Counter()
        for client, kind, way, messages, payload, total in rows:
            self._add(Flow(client, kind, way), messages, payload, total)

    def weigh(self, client: int, kind: str, way: Way, content: RecordDict) -> None:
        """Count a message that was sent (down) or received (up)."""
        total = sum(len(part.deflate()) for part in _tree(content))
        self._add(Flow(client, kind, way), 1, payload_bytes(content), total)

    def rows(self) -> list[list]:
        """Plain values, one row a flow: client, kind, way, messages, payload, total."""
        return [
            [*flow, self.messages[flow], self.payload[flow], self.total[flow]]
            for flow in sorted(self.messages)
        ]

    def _add(self, flow: Flow, messages: int, payload: int, total: int) -> None:
        self.messages[flow] += messages
        self.payload[flow] += payload
        self.total[flow] += total


def payload_bytes(content: RecordDict) -> int:
    """Bytes of a message's tensor values."""
    arrays = [array for record in content.array_records.values() for array in record.values()]
    return sum(max(0, len(array.data) - NUMPY_HEADER) for array in arrays)


def _tree(part: InflatableObject) -> Iterator[InflatableObject]:
    yield part
    for child in (part.children or {}).values():
        yield from _tree(child)
