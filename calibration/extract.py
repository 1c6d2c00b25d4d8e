"""Stage 1, on a client: demonstrations become one context vector and their number.

    v_k = mean over demonstrations of each site's output at the last token

Pure but for the model it runs; a federation calls exactly this function.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.batches import by_length
from calibration.data import Example
from calibration.hooked import HookedModel, recorded
from calibration.task import TaskDefinition
from ifedicl_serve.errors import DataError
from ifedicl_serve.injection import SITES
from ifedicl_serve.prompt import token_ids


@dataclass(frozen=True)
class ClientVector:
    """A client's context vector [layers, 2, hidden] (float32, CPU), how many demonstrations it
    is the mean of, and how often each label occurred among the client's examples."""

    vector: Tensor
    count: int
    label_counts: dict[str, int]


def extract_vector(
    model: HookedModel, task: TaskDefinition, examples: Sequence[Example], limit: int, seed: int
) -> ClientVector:
    """Average the activations of up to `limit` demonstrations (0: all), chosen by `seed`."""
    if not examples:
        raise DataError("a client has no examples to demonstrate; give it data or leave it out")
    demonstrations = choose_demonstrations(examples, limit, seed)
    texts = [task.demonstration(example) for example in demonstrations]
    vector = mean_activation(model, [token_ids(model.tokenizer, text) for text in texts])
    counts = Counter(example.label for example in examples)
    return ClientVector(vector, len(demonstrations), {name: counts[name] for name in task.names})


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
def mean_activation(model: HookedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Mean over sequences of every site's output at the last token, [layers, 2, hidden]."""
    total = torch.zeros(model.num_layers, len(SITES), model.hidden_size, device=model.device)
    for positions in by_length([len(ids) for ids in sequences]):
        batch = [sequences[position] for position in positions]
        with recorded(model, batch) as outputs:
            model.hidden(batch)
        total += outputs.sum(dim=0)
    return (total / len(sequences)).cpu()
