"""Demonstrations as the model's activations: what a context vector is the mean of."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from calibration.data.examples import Example
from calibration.model.batches import by_length
from calibration.model.hooked import HookedModel, recorded
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import SITES
from ifedicl_serve.contract.tokens import token_ids


def rendered(
    model: HookedModel, task: TaskDefinition, examples: Sequence[Example]
) -> list[list[int]]:
    """Demonstrations as tokens."""
    return [token_ids(model.tokenizer, task.demonstration(example)) for example in examples]


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
    for positions in by_length([len(ids) for ids in sequences], model.max_batch_tokens):
        batch = [sequences[position] for position in positions]
        with recorded(model, batch) as outputs:
            model.hidden(batch)
        total += change(outputs).sum(dim=0)
    return (total / len(sequences)).cpu()
