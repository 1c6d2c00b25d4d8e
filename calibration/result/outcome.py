"""What a calibration ends with."""

from dataclasses import dataclass

from calibration.stages.evaluate import Metrics
from calibration.state import State
from ifedicl_serve.contract.artifact import Artifact


@dataclass(frozen=True)
class Outcome:
    """The artifact, and what only the report tells."""

    artifact: Artifact
    state: State
    before: Metrics
    after: Metrics
    warnings: list[str]
