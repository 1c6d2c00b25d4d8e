"""Stage 1, on a client: demonstrations become one context vector and their number.

    v_k = mean over demonstrations of each site's output at the last token

With privacy it is the mean distance from a reference r everybody can compute, clipped per
demonstration, noised, and shortened by what is likely to be noise:

    v_k = r + |r| * shrunk(mean of clip((a - r) / |r|) + noise)

Pure but for the model it runs and the noise; a federation calls exactly this function.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.data.examples import Example
from calibration.model.batches import by_length
from calibration.model.hooked import HookedModel, recorded
from calibration.privacy.accountant import noise_multiplier
from calibration.privacy.mechanism import SYSTEM, Randomness, clip, noised, shrunk
from calibration.privacy.reference import Reference
from calibration.settings import Settings
from calibration.stages.fit import derived_seed
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import SITES, adapted_mask
from ifedicl_serve.contract.prompt import token_ids
from ifedicl_serve.errors import DataError

# What a private client measures its demonstrations from: sentences about nothing in particular,
# with each label of the task. Real demonstrations are nearer to them than to an empty text
# (subj, emotion, ag_news: the mean of 64 at 0.9 to 1.2 relative to |r|, not 1.5 to 1.8).
REFERENCE_TEXTS = (
    "This is a short text about something that happened.",
    "Here is what was said.",
    "It was the first time in a year, and nobody knew why.",
    "A man and a woman went to the city to look for work.",
)


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
    if settings.private:
        return _private_vector(model, task, examples, settings, client, randomness)
    seed = derived_seed(settings.seed, client, round_index=-1)
    demonstrations = choose_demonstrations(examples, settings.demonstrations, seed)
    vector = mean_activation(model, rendered(model, task, demonstrations))
    counts = Counter(example.label for example in examples)
    return ClientVector(vector, len(demonstrations), {name: counts[name] for name in task.names})


def _private_vector(
    model: HookedModel,
    task: TaskDefinition,
    examples: Sequence[Example],
    settings: Settings,
    client: int,
    randomness: Randomness,
) -> ClientVector:
    # Drawn by position: evened out over the labels, one example would decide about others.
    count = min(settings.demonstrations or len(examples), len(examples))
    seed = derived_seed(settings.seed, client, round_index=-1)
    demonstrations = random.Random(seed).sample(list(examples), count)
    reference = task_reference(model, task, settings)
    mean = mean_activation(
        model,
        rendered(model, task, demonstrations),
        lambda outputs: clip(reference.distances(outputs), settings.vector_clip),
    )
    deviation = vector_deviation(settings, len(examples), count)
    noisy = noised(mean.to(model.device), deviation, randomness)
    vector = reference.at(shrunk(noisy, deviation))
    return ClientVector(vector.cpu(), count, {})


def vector_deviation(settings: Settings, examples: int, demonstrations: int) -> float:
    """Standard deviation of the noise on a private client's mean distance.

    Zeroing out a demonstration moves the mean by at most `vector_clip / demonstrations` in L2.
    """
    return noise_multiplier(settings, examples) * settings.vector_clip / demonstrations


def task_reference(model: HookedModel, task: TaskDefinition, settings: Settings) -> Reference:
    """The mean activation of public texts with each of the task's labels."""
    public = [Example(text, name) for text in REFERENCE_TEXTS for name in task.names]
    mask = adapted_mask(model.num_layers, settings.layers, settings.sites)
    activation = mean_activation(model, rendered(model, task, public))
    return Reference(activation.to(model.device), mask)


def rendered(
    model: HookedModel, task: TaskDefinition, examples: Sequence[Example]
) -> list[list[int]]:
    """Demonstrations as tokens."""
    return [token_ids(model.tokenizer, task.demonstration(example)) for example in examples]


def choose_demonstrations(examples: Sequence[Example], limit: int, seed: int) -> list[Example]:
    """Up to `limit` examples (0: all), the labels as even as they come, the same per seed."""
    by_label: dict[str, list[Example]] = {}
    shuffled = random.Random(seed).sample(list(examples), len(examples))
    for example in shuffled:
        by_label.setdefault(example.label, []).append(example)
    turns = [(turn, example) for group in by_label.values() for turn, example in enumerate(group)]
    ordered = [example for _, example in sorted(turns, key=lambda item: item[0])]
    return ordered[: limit or len(ordered)]


@torch.inference_mode()
def mean_activation(
    model: HookedModel,
    sequences: Sequence[Sequence[int]],
    change: Callable[[Tensor], Tensor] = lambda outputs: outputs,
) -> Tensor:
    """Mean over sequences of every site's output at the last token, [layers, 2, hidden].

    `change` is applied to the outputs [batch, layers, 2, hidden] before they are averaged.
    """
    total = torch.zeros(model.num_layers, len(SITES), model.hidden_size, device=model.device)
    for positions in by_length([len(ids) for ids in sequences]):
        batch = [sequences[position] for position in positions]
        with recorded(model, batch) as outputs:
            model.hidden(batch)
        total += change(outputs).sum(dim=0)
    return (total / len(sequences)).cpu()
