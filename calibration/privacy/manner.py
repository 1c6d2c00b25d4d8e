"""How a client works under differential privacy: it draws by position, clips, and adds noise.

    v_k = r + |r| * shrunk(mean of clip((a - r) / |r|) + noise)

is its context vector, from the reference r that everybody can compute: the mean distance of its
demonstrations' activations a, clipped per demonstration, noised, and shortened by what is likely
to be noise. Its gradients are DP-SGD's (Abadi et al., arXiv 1607.00133).
"""

import random
import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from calibration.data.examples import Example
from calibration.model.activations import mean_activation, rendered
from calibration.model.hooked import HookedModel
from calibration.model.objective import Objective, example_gradients
from calibration.privacy.accountant import noise_multiplier, sampling_rate
from calibration.privacy.mechanism import Randomness, clip, noised, poisson_sample, shrunk
from calibration.privacy.reference import task_reference
from calibration.settings import EXTRACTION, Settings
from calibration.task import TaskDefinition


class PrivateManner:
    """What depends on examples is bounded per example and noised, or stays with the client."""

    def __init__(self, settings: Settings, client: int, randomness: Randomness) -> None:
        self.settings, self.client, self.randomness = settings, client, randomness

    def demonstrations(self, examples: Sequence[Example]) -> list[Example]:
        """Drawn by position: evened out over the labels, one example would decide about others."""
        count = min(self.settings.demonstrations or len(examples), len(examples))
        seed = self.settings.seed_of(self.client, EXTRACTION)
        return random.Random(seed).sample(list(examples), count)

    def vector(
        self,
        model: HookedModel,
        task: TaskDefinition,
        demonstrations: Sequence[Example],
        examples: int,
    ) -> Tensor:
        """The noised mean distance from the reference, as a vector."""
        reference = task_reference(model, task, self.settings)
        mean = mean_activation(
            model,
            rendered(model, task, demonstrations),
            lambda outputs: clip(reference.distances(outputs), self.settings.vector_clip),
        )
        deviation = vector_deviation(self.settings, examples, len(demonstrations))
        noisy = noised(mean.to(model.device), deviation, self.randomness)
        return reference.at(shrunk(noisy, deviation)).cpu()

    def label_counts(self, names: Sequence[str], examples: Sequence[Example]) -> dict[str, int]:
        """None."""
        return {}

    def seed(self, round_index: int) -> int:
        """Nobody's to draw again. How many tokens a batch is padded to decides which forward noise
        an example gets, so with a known seed one example would have a say in the gradients of the
        others."""
        return secrets.randbits(63)

    def gradients(self, objective: Objective, seed: int) -> "PrivateGradients":
        """Of Poisson samples, clipped and noised."""
        return PrivateGradients(objective, self.settings, self.randomness)

    def told(self, loss: float, round_index: int, step: int) -> tuple[float, ...]:
        """Nothing: a private client's failing would tell of its examples."""
        return ()


class PrivateGradients:
    """A Poisson sample of the examples, each one's gradient clipped, Gaussian noise on their sum,
    over the expected batch size."""

    def __init__(self, objective: Objective, settings: Settings, randomness: Randomness) -> None:
        self.objective = objective
        self.count = len(objective.targets)
        self.rate = sampling_rate(settings, self.count)
        self.multiplier = noise_multiplier(settings, self.count)
        self.norm = settings.gradient_clip
        self.randomness = randomness

    def __call__(self, adapted: Tensor) -> tuple[float, Tensor]:
        positions = poisson_sample(self.count, self.rate, self.randomness)
        loss, total = 0.0, torch.zeros_like(adapted)
        for summed, rows in example_gradients(self.objective, positions, adapted.detach()):
            loss += summed / len(positions)
            # Zeroing out an example moves the sum by at most the clipping norm.
            total += clip(rows, self.norm).sum(dim=0)
        noisy = noised(total, self.multiplier * self.norm, self.randomness)
        return loss, noisy / (self.rate * self.count)


def vector_deviation(settings: Settings, examples: int, demonstrations: int) -> float:
    """Standard deviation of the noise on a private client's mean distance.

    Zeroing out a demonstration moves the mean by at most `vector_clip / demonstrations` in L2.
    """
    return noise_multiplier(settings, examples) * settings.vector_clip / demonstrations
