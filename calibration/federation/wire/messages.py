"""What travels between the coordinator and a client, and the border where it is checked.

A message is a Flower `RecordDict`. The coordinator's says what is asked, and with it goes what a
client is told once (`told`): the invitation, the global context vector, values at the sites, sums
over clients. A client's holds a status and, if that is ok, arrays and numbers.
Nothing has a field for a text or a token id. Everything that arrives is refused with
FederationError unless it is exactly what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Annotated

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from calibration.federation.wire.tensors import (
    Arrays,
    Layout,
    Wire,
    decode,
    encode,
    layout,
    layout_bytes,
    refuse_other,
)
from ifedicl_serve.errors import FederationError

MAX_EXAMPLES = 1_000_000  # a client that claims more would outweigh all the others
LARGEST_LOSS = 10_000.0  # of a label; honest ones stay below some hundreds
MAX_TEXT = 1000  # characters of a client's reason or label name that are read
HEADER = 512  # bytes of an array beside its values, at most

JOIN, EXTRACT, FIT, HELD_OUT = "query.join", "train.extract", "train.fit", "evaluate.held_out"
STATISTICS, LOSSES, CURVATURES = "query.statistics", "query.losses", "query.curvatures"
NOISY_STATISTICS, GRADIENT = "query.noisy_statistics", "query.gradient"
JUDGE = "evaluate.judge"
# Names of records: what is asked, in numbers and in arrays; what is told once; the answer's arrays.
ASK, ASKED, ANSWER, WEIGHTS = "ask", "asked", "answer", "weights"
VALUES = "values"  # in a question: by their digest
INVITATION, VECTOR, READING, SUMS = "invitation", "vector", "reading", "sums"
OK, REFUSED, REJOIN = "ok", "refused", "rejoin"

Numbers = dict[str, int | float | list[int] | list[float]]


class Member(BaseModel):
    """A client as it introduced itself: its number, how many rows it has, and the digest of its
    model's weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    client: Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]
    examples: Annotated[int, Field(ge=1, le=MAX_EXAMPLES)]
    held_out: Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]
    weights: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def told_name(topic: str, which: object) -> str:
    """The name of what is told once about a topic: of a fit the values of a digest, what its rows
    are read under (`READING`) and the sums of what was read (`SUMS`)."""
    return f"{topic}.{which}"


def tensor_record(tensor: Tensor, wire: Wire) -> ArrayRecord:
    """A tensor for a message."""
    return array_record(encode(tensor, wire))


def tensor_of(record: ArrayRecord | None, wire: Wire, shape: tuple[int, ...]) -> Tensor:
    """The tensor of a message. Raises FederationError."""
    return decode(arrays_of(record, layout(shape, wire)), wire, shape)


def array_record(arrays: Arrays) -> ArrayRecord:
    """Arrays for a message."""
    return ArrayRecord({name: Array(values) for name, values in arrays.items()})


def arrays_of(record: ArrayRecord | None, expected: Layout) -> Arrays:
    """The arrays of a message, no others and no larger ones. Raises FederationError."""
    if record is None:
        raise FederationError("sent no arrays")
    largest = layout_bytes(expected) + HEADER * len(expected)
    try:
        if sum(len(array.data) for array in record.values()) > largest:
            raise FederationError(f"sent more than {largest} bytes")
        arrays = {name: _values(array) for name, array in record.items()}
    except (ValueError, TypeError) as error:
        raise FederationError(f"sent an unreadable array: {type(error).__name__}") from error
    refuse_other(arrays, expected)
    return arrays


def ok(numbers: Numbers, arrays: ArrayRecord | None = None) -> RecordDict:
    """A client's answer."""
    answer = RecordDict({"status": ConfigRecord({"status": OK}), "numbers": MetricRecord(numbers)})
    if arrays is not None:
        answer[ANSWER] = arrays
    return answer


def member_record(member: Member) -> RecordDict:
    """A client's introduction."""
    answer = ok(member.model_dump(exclude={"weights"}))
    answer[WEIGHTS] = ConfigRecord({"digest": member.weights})
    return answer


def not_ok(status: str, reason: str) -> RecordDict:
    """A client's refusal; `reason` is written for the coordinator and holds no text of its data."""
    return RecordDict({"status": ConfigRecord({"status": status, "reason": reason})})


def status_of(content: RecordDict) -> tuple[str, str]:
    """Status and reason of a client's answer. Raises FederationError."""
    record = content.config_records.get("status", ConfigRecord())
    status, reason = record.get("status"), str(record.get("reason", ""))[:MAX_TEXT]
    if status not in (OK, REFUSED, REJOIN):
        raise FederationError("sent no status")
    return str(status), reason


def numbers_of(content: RecordDict) -> MetricRecord:
    """The numbers of a client's answer; all finite. Raises FederationError."""
    numbers = content.metric_records.get("numbers")
    if numbers is None:
        raise FederationError("sent no numbers")
    for name, value in numbers.items():
        if not all(math.isfinite(one) for one in (value if isinstance(value, list) else [value])):
            raise FederationError(f"sent {name[:MAX_TEXT]} as NaN or infinite")
    return numbers


def member_of(content: RecordDict) -> Member:
    """A client's introduction. Raises FederationError."""
    try:
        weights = content.config_records.get(WEIGHTS, ConfigRecord()).get("digest")
        return Member.model_validate({**numbers_of(content), "weights": weights})
    except ValidationError as error:
        raise FederationError(f"introduced itself wrongly: {error.errors()[0]['msg']}") from error


def count_of(numbers: MetricRecord, member: Member) -> int:
    """How many examples stand behind an answer, at most those announced. Raises FederationError."""
    count = numbers.get("count")
    if type(count) is not int or not 1 <= count <= member.examples:
        raise FederationError(f"counts {count!r} examples, announced {member.examples}")
    return count


def label_counts_of(numbers: MetricRecord, labels: Sequence[str], member: Member) -> dict[str, int]:
    """How many of a client's examples have each label; none if it withholds them. Raises
    FederationError."""
    counts = _list_of(numbers, "label_counts")
    if not counts:
        return {}
    usable = all(type(count) is int and count >= 0 for count in counts)
    if not (usable and len(counts) == len(labels) and sum(counts) == member.examples):
        raise FederationError(
            f"sent label counts that are not of {len(labels)} labels and {member.examples} examples"
        )
    return dict(zip(labels, map(int, counts), strict=True))


def losses_of(numbers: MetricRecord, steps: int) -> tuple[float, ...]:
    """The loss of each of a client's steps; none if it withholds them. Raises FederationError."""
    losses = _list_of(numbers, "losses")
    if len(losses) not in (0, steps):
        raise FederationError(f"sent {len(losses)} losses, expected {steps} or none")
    return tuple(_within(loss, "a loss", LARGEST_LOSS) for loss in losses)


def rows_of(numbers: MetricRecord, announced: int) -> int:
    """How many rows sums are over, at most those announced. Raises FederationError."""
    rows = numbers.get("rows")
    if type(rows) is not int or not 0 <= rows <= announced:
        raise FederationError(f"counts {rows!r} rows, announced {announced}")
    return rows


def held_out_of(numbers: MetricRecord, member: Member) -> tuple[float, int]:
    """A client's summed held-out loss and how many rows that is. Raises FederationError."""
    rows = rows_of(numbers, member.held_out)
    return _within(numbers.get("loss"), "a held-out loss", rows * LARGEST_LOSS), rows


def _values(array: Array) -> npt.NDArray:
    """As `Array.numpy`, which would make room for whatever shape a header claims."""
    stream = BytesIO(array.data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of numpy's format")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
    values = np.frombuffer(array.data, dtype, offset=stream.tell())
    return values.reshape(shape, order="F" if by_column else "C")


def _list_of(numbers: MetricRecord, name: str) -> list[int] | list[float]:
    values = numbers.get(name, [])
    if not isinstance(values, list):
        raise FederationError(f"sent {name} as a number, expected a list")
    return values


def _within(value: object, name: str, largest: float) -> float:
    if not isinstance(value, float | int):
        raise FederationError(f"sent no {name}")
    if not 0 <= value <= largest:
        raise FederationError(f"sent {name} of {value:.3g}, expected 0 to {largest:g}")
    return float(value)
