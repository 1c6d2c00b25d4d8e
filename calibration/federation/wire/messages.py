"""What travels between the coordinator and a client, and the border where it is checked.

A message is a Flower `RecordDict`. The coordinator's holds some of: the invitation (the task,
the model's identity, the settings), the global context vector, coefficients and a round number.
A client's holds a status and, if that is ok, one tensor and numbers. Nothing has a field for
a text or a token id. Everything that arrives is refused with FederationError unless it is
exactly what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from calibration.federation.wire.tensors import Arrays, Wire, decode, encode
from calibration.settings import Settings
from calibration.stages.evaluate import Metrics
from calibration.task import TaskDefinition
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import SITES, Site
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import Extent, Label, TaskName
from ifedicl_serve.errors import FederationError, IFedICLError

PROTOCOL: Literal[1] = 1
MAX_EXAMPLES = 1_000_000  # a client that claims more would outweigh all the others
LARGEST_LOSS = 10_000.0  # of a label; honest ones stay below some hundreds
METRICS = {"accuracy": 1.0, "log_loss": LARGEST_LOSS}  # their mean over rows is one over clients
MAX_TEXT = 1000  # characters of a client's reason or label name that are read

JOIN, EXTRACT, FIT, MEASURE = "query.join", "train.extract", "train.fit", "evaluate.measure"
VECTOR, COEFFICIENTS = "vector", "coefficients"  # names of array records
OK, REFUSED, REJOIN = "ok", "refused", "rejoin"

Numbers = dict[str, int | float | list[int] | list[float]]


class Invitation(BaseModel):
    """What a client must know before it computes anything. `num_layers` and `hidden_size` are
    those of the model named; `wire` is how the context vector travels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal[1] = PROTOCOL
    name: TaskName
    prompt: PromptTemplate
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=1000)]
    model: ModelIdentity
    num_layers: Annotated[int, Field(ge=1, le=1000)]
    hidden_size: Annotated[int, Field(ge=1, le=1 << 17)]
    settings: Settings
    wire: Wire = "fp32"

    @property
    def task(self) -> TaskDefinition:
        return TaskDefinition(self.name, self.prompt, self.labels)

    @property
    def vector_shape(self) -> tuple[int, int, int]:
        return self.num_layers, len(SITES), self.hidden_size

    @property
    def coefficients_shape(self) -> tuple[int, int, int]:
        return self.num_layers, len(SITES), 2

    def to_record(self) -> ConfigRecord:
        return ConfigRecord({"json": self.model_dump_json()})

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it back. Raises FederationError."""
        try:
            return cls.model_validate_json(text)
        except (ValidationError, IFedICLError) as error:
            raise FederationError(
                f"the coordinator's invitation is not one of protocol {PROTOCOL}: {error}; "
                "install the coordinator's version of ifedicl-serve"
            ) from error


Invitation.model_rebuild(_types_namespace={"Site": Site, "Extent": Extent})


class Member(BaseModel):
    """A client as it introduced itself: its number and how many rows it has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    client: Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]
    examples: Annotated[int, Field(ge=1, le=MAX_EXAMPLES)]
    held_out: Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]


def tensor_record(tensor: Tensor, wire: Wire) -> ArrayRecord:
    """A tensor for a message."""
    return ArrayRecord({name: Array(value) for name, value in encode(tensor, wire).items()})


def tensor_of(record: ArrayRecord | None, wire: Wire, shape: tuple[int, ...]) -> Tensor:
    """The tensor of a message. Raises FederationError."""
    if record is None:
        raise FederationError("sent no tensor")
    return decode(_arrays(record, shape), wire, shape)


def ok(numbers: Numbers, **tensors: ArrayRecord) -> RecordDict:
    """A client's answer."""
    status = ConfigRecord({"status": OK})
    return RecordDict({"status": status, "numbers": MetricRecord(numbers), **tensors})


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
        return Member.model_validate(dict(numbers_of(content)))
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


def metrics_of(numbers: MetricRecord, when: str) -> Metrics:
    """A client's held-out metrics, `when` zero_shot or adapted. Raises FederationError."""
    return {
        name: _within(numbers.get(f"{when}_{name}"), f"{when}_{name}", largest)
        for name, largest in METRICS.items()
    }


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


def _arrays(record: ArrayRecord, shape: tuple[int, ...]) -> Arrays:
    largest = 4 * math.prod(shape) + 1024  # float32 and numpy's header
    try:
        if sum(len(array.data) for array in record.values()) > largest:
            raise FederationError(f"sent more than {largest} bytes")
        return {name: array.numpy() for name, array in record.items()}
    except (ValueError, TypeError, EOFError, MemoryError) as error:
        raise FederationError(f"sent an unreadable array: {type(error).__name__}") from error
