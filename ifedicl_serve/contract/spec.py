"""`task.json`, typed and checked: everything about a task except its tensors.

Knows what a valid task is; where its file lies and what its digest is, `artifact` knows. What an
older release wrote, `schema_1` turns into this.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import Site, TensorName
from ifedicl_serve.contract.prompt import PromptTemplate

SCHEMA_VERSION: Literal[2] = 2
MAX_LABELS = 1000

Extent = Literal["all", "tail"]
Fit = Literal["none", "coefficients", "channels"]
ReadoutKind = Literal["none", "bias", "head"]
# What of a rung's tensors stands together. Any task may keep the context vector it is found by.
COEFFICIENTS: frozenset[TensorName] = frozenset({"context_vector", "coefficients"})
CHANNELS: frozenset[TensorName] = frozenset({"scale", "shift"})
READOUT: frozenset[TensorName] = frozenset({"bias", "sharpness"})

TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Label(BaseModel):
    """A class: the name a caller gets back, and the words the model reads for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)]
    verbalization: Annotated[str, Field(min_length=1, max_length=200)]

    @model_validator(mode="after")
    def _no_outer_space(self) -> "Label":
        if self.verbalization != self.verbalization.strip():
            raise ValueError(
                f"verbalization {self.verbalization!r} has outer white space; remove it"
            )
        return self


class RungRecord(BaseModel):
    """A rung that was tried, and what held-out rows said of it: their mean log-loss, how far that
    is above the best rung's with the standard error of the difference, and accuracy."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    numbers: Annotated[int, Field(ge=0)]  # that were fitted
    log_loss: float
    excess: float
    standard_error: float
    accuracy: float


class CalibrationRecord(BaseModel):
    """How the task was made; kept in the artifact, so free of anything that varies by rerun."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    loss: Literal["restricted", "vocabulary"]
    rounds: int
    round_losses: tuple[float, ...] = ()  # mean over the round's steps; private clients tell none
    seed: int
    client_sizes: tuple[int, ...]
    settings: dict[str, int | float | str] = {}
    metrics: dict[str, float] = {}
    rungs: tuple[RungRecord, ...] = ()
    wire_bytes: dict[str, int] = {}
    versions: dict[str, str] = {}


class TaskSpec(BaseModel):
    """`task.json`: everything about a task except its tensors, which `tensors` names.

    `extent` says which tokens of a prompt are adapted: all, or the tail behind the text alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = SCHEMA_VERSION
    name: TaskName
    prompt: PromptTemplate
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=MAX_LABELS)]
    layers: tuple[Annotated[int, Field(ge=0)], ...]
    sites: tuple[Site, ...]
    extent: Extent = "all"
    tensors: tuple[TensorName, ...] = ()
    num_layers: Annotated[int, Field(ge=1, le=1000)]
    hidden_size: Annotated[int, Field(ge=1, le=1 << 17)]
    model: ModelIdentity
    calibration: CalibrationRecord
    vectors_sha256: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "TaskSpec":
        names = [label.name for label in self.labels]
        if len(set(names)) < len(names):
            raise ValueError(f"label names repeat: {names}")
        if any(layer >= self.num_layers for layer in self.layers):
            raise ValueError(f"layers {self.layers} exceed the model's {self.num_layers} layers")
        return self

    @model_validator(mode="after")
    def _tensors_belong_together(self) -> "TaskSpec":
        held = set(self.tensors)
        if list(self.tensors) != sorted(held):
            raise ValueError(f"tensors {self.tensors} are not sorted, each once")
        for group in (CHANNELS, READOUT):
            if held & group not in (set(), group):
                raise ValueError(
                    f"tensors {self.tensors} have some of {sorted(group)}, expected all or none"
                )
        for name, group in (("coefficients", COEFFICIENTS), ("label_rows", READOUT)):
            if name in held and not held >= group:
                raise ValueError(f"tensors {self.tensors} have {name}, but not all {sorted(group)}")
        return self

    @property
    def fit(self) -> Fit:
        """What is done at the sites: nothing, the paper's coefficients, or every channel."""
        if CHANNELS <= set(self.tensors):
            return "channels"
        return "coefficients" if COEFFICIENTS <= set(self.tensors) else "none"

    @property
    def readout(self) -> ReadoutKind:
        """What is done with the labels' scores: nothing, sharpness and bias, or label rows too."""
        if "label_rows" in self.tensors:
            return "head"
        return "bias" if READOUT <= set(self.tensors) else "none"

    @property
    def rung(self) -> str:
        """Both in one name, e.g. `channels+head`; `zero-shot` if nothing is fitted."""
        kinds = [kind for kind in (self.fit, self.readout) if kind != "none"]
        return "+".join(kinds) or "zero-shot"

    @property
    def adapts_text(self) -> bool:
        """Whether it adapts the tokens of a text, and not its prompt's tail alone, or nothing."""
        return self.fit != "none" and self.extent == "all"

    @property
    def verbalizations(self) -> list[str]:
        return [label.verbalization for label in self.labels]
