"""`task.json`, typed and checked: everything about a task except its tensors.

Knows what a valid task is; where its file lies and what its digest is, `artifact` knows.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import Site
from ifedicl_serve.contract.prompt import PromptTemplate

SCHEMA_VERSION: Literal[1] = 1
MAX_LABELS = 1000

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
    wire_bytes: dict[str, int] = {}
    versions: dict[str, str] = {}


class TaskSpec(BaseModel):
    """`task.json`: everything about a task except its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    name: TaskName
    prompt: PromptTemplate
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=MAX_LABELS)]
    layers: tuple[Annotated[int, Field(ge=0)], ...]
    sites: tuple[Site, ...]
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

    @property
    def verbalizations(self) -> list[str]:
        return [label.verbalization for label in self.labels]
