"""How a client works: in the open, or so that no example can be told from what it sends.

The two stages (`extract`, `fit`) ask a `Manner` for all in which they differ. The other one is
`calibration.privacy.manner.PrivateManner`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from calibration.data.demonstrations import choose_demonstrations
from calibration.data.examples import Example
from calibration.model.activations import mean_activation, rendered
from calibration.model.batches import shuffled
from calibration.model.hooked import HookedModel
from calibration.model.objective import Objective
from calibration.privacy.manner import PrivateManner
from calibration.privacy.mechanism import Randomness
from calibration.settings import EXTRACTION, Settings
from calibration.task import TaskDefinition
from ifedicl_serve.errors import ModelError


class Gradients(Protocol):
    """The loss of the next batch at some coefficients [sites, 2], and its gradient."""

    def __call__(self, adapted: Tensor) -> tuple[float, Tensor]: ...


class Manner(Protocol):
    """What a client draws, averages and tells."""

    def demonstrations(self, examples: Sequence[Example]) -> list[Example]:
        """Those of its examples that its context vector is made of."""
        ...

    def vector(
        self,
        model: HookedModel,
        task: TaskDefinition,
        demonstrations: Sequence[Example],
        examples: int,
    ) -> Tensor:
        """The context vector [layers, 2, hidden] of some of its `examples`."""
        ...

    def label_counts(self, names: Sequence[str], examples: Sequence[Example]) -> dict[str, int]:
        """How often each label occurs, as far as that is told."""
        ...

    def seed(self, round_index: int) -> int:
        """Of a round's batches and forward noise."""
        ...

    def gradients(self, objective: Objective, seed: int) -> Gradients:
        """What the optimiser follows."""
        ...

    def told(self, loss: float, round_index: int, step: int) -> tuple[float, ...]:
        """The loss of a step, if it is told. Raises ModelError if it is no number."""
        ...


def manner_of(settings: Settings, client: int, randomness: Randomness) -> Manner:
    """As the settings ask for; noise is drawn from `randomness`."""
    if settings.private:
        return PrivateManner(settings, client, randomness)
    return OpenManner(settings, client)


class OpenManner:
    """A client and round always draw the same, so a resumed run and a federated client get the
    same result."""

    def __init__(self, settings: Settings, client: int) -> None:
        self.settings, self.client = settings, client

    def demonstrations(self, examples: Sequence[Example]) -> list[Example]:
        """As even over the labels as they come."""
        return choose_demonstrations(examples, self.settings.demonstrations, self.seed(EXTRACTION))

    def vector(
        self,
        model: HookedModel,
        task: TaskDefinition,
        demonstrations: Sequence[Example],
        examples: int,
    ) -> Tensor:
        """The mean activation."""
        return mean_activation(model, rendered(model, task, demonstrations))

    def label_counts(self, names: Sequence[str], examples: Sequence[Example]) -> dict[str, int]:
        """All of them."""
        counts = Counter(example.label for example in examples)
        return {name: counts[name] for name in names}

    def seed(self, round_index: int) -> int:
        """Everybody's to draw again."""
        return self.settings.seed_of(self.client, round_index)

    def gradients(self, objective: Objective, seed: int) -> Gradients:
        """Of shuffled batches."""
        return ShuffledGradients(objective, self.settings, seed)

    def told(self, loss: float, round_index: int, step: int) -> tuple[float, ...]:
        """It, if it is a number."""
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss of client {self.client} became {loss} in round {round_index + 1}, step "
                f"{step}; lower --lr or calibrate with --dtype fp32"
            )
        return (loss,)


class ShuffledGradients:
    """The loss of the next batch of shuffled examples, and its gradient."""

    def __init__(self, objective: Objective, settings: Settings, seed: int) -> None:
        self.objective = objective
        self.batches = shuffled(
            len(objective.targets),
            settings.batch_size,
            settings.local_steps,
            torch.Generator().manual_seed(seed),
        )

    def __call__(self, adapted: Tensor) -> tuple[float, Tensor]:
        return self.objective.gradient(next(self.batches), adapted)
