"""What a client must know before it computes anything, and the sizes of all that follows."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from flwr.app import ConfigRecord
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calibration.federation.wire.tensors import Wire
from calibration.settings import Settings, SiteFit
from calibration.task import TaskDefinition
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import SITES, Site
from ifedicl_serve.contract.names import TaskName
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import MAX_LABELS, Extent, Label
from ifedicl_serve.errors import FederationError, IFedICLError

PROTOCOL: Literal[3] = 3


class Invitation(BaseModel):
    """The task, the model and the settings. `num_layers` and `hidden_size` are those of the model
    named; `wire` is how the context vector and channels travel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal[3] = PROTOCOL
    name: TaskName
    prompt: PromptTemplate
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=MAX_LABELS)]
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

    def values_shape(self, fit: SiteFit) -> tuple[int, ...]:
        """Of what is fitted at the sites."""
        width = (2,) if fit == "coefficients" else (2, self.hidden_size)
        return self.num_layers, len(SITES), *width

    def values_wire(self, fit: SiteFit) -> Wire:
        """How that travels: coefficients are too few to be worth rounding."""
        return "fp32" if fit == "coefficients" else self.wire

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
