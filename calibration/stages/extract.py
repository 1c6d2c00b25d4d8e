"""Stage 1, on a client: demonstrations become one context vector and their number.

    v_k = mean over demonstrations of each site's output at the last token

Pure but for the model it runs and the noise of a private client (`privacy.manner`); a federation
calls exactly this function.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.privacy.mechanism import SYSTEM, Randomness
from calibration.settings import Settings
from calibration.stages.manner import manner_of
from calibration.task import TaskDefinition
from ifedicl_serve.errors import DataError


@dataclass(frozen=True)
class ClientVector:
    """A client's context vector [layers, 2, hidden] (float32, CPU), how many demonstrations it
    is the mean of, and how often each label occurred among the client's examples (private
    clients keep that to themselves)."""

    vector: Tensor
    count: int
    label_counts: dict[str, int]


def extract_vector(
    model: HookedModel,
    task: TaskDefinition,
    examples: Sequence[Example],
    settings: Settings,
    client: int,
    randomness: Randomness = SYSTEM,
) -> ClientVector:
    """Average the activations of a client's demonstrations, at most `settings.demonstrations`."""
    if not examples:
        raise DataError("a client has no examples to demonstrate; give it data or leave it out")
    manner = manner_of(settings, client, randomness)
    demonstrations = manner.demonstrations(examples)
    vector = manner.vector(model, task, demonstrations, len(examples))
    return ClientVector(vector, len(demonstrations), manner.label_counts(task.names, examples))
