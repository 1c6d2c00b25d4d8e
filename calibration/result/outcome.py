"""What a calibration ends with."""

from dataclasses import dataclass

from calibration.calibrate import Calibrated
from ifedicl_serve.contract.artifact import Artifact


@dataclass(frozen=True)
class Outcome:
    """The artifact, and what only the report tells."""

    artifact: Artifact
    done: Calibrated
    warnings: list[str]
