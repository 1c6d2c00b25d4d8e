"""The paper's rival: federated LoRA, FedAvg of the adapters of a frozen model (`peft`).

Same clients, rounds, steps, batches, loss, optimiser and learning-rate schedule as ours; only
what is trained and sent differs: the matrices A and B of every adapted projection, averaged
separately, as FedAvg of adapters is usually done (FedIT, arXiv 2305.05644).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from bench.federation.rounds import MeteredModel, Trace
from calibration.data.examples import Example
from calibration.model.batches import shuffled
from calibration.model.hooked import HookedModel
from calibration.model.loss import label_loss, label_targets
from calibration.settings import Settings
from calibration.stages.aggregate import fedavg
from calibration.stages.evaluate import Evaluation
from calibration.stages.fit import learning_rate
from calibration.task import TaskDefinition

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

Tensors = dict[
    str, Tensor
]  # a model's adapter: "...lora_A..." [rank, in], "...lora_B..." [out, rank]


@dataclass(frozen=True)
class Lora:
    """Which matrices are adapted, how finely and how fast. The update is scaled by 2 (alpha is
    twice the rank), as is common; the learning rate makes up for any other choice."""

    learning_rate: float
    rank: int = 8
    projections: tuple[str, ...] = ATTENTION
    rounds: int = 0  # 0: as many as the settings say; the steps in all stay the same


def add_adapters(model: HookedModel, lora: Lora, seed: int) -> tuple[MeteredModel, Tensors]:
    """`model` with adapters, changed in place, and their parameters. They start as no change."""
    torch.manual_seed(seed)  # peft draws A from the global generator
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank,
        lora_dropout=0.0,
        target_modules=list(lora.projections),
    )
    adapted = MeteredModel(inject_adapter_in_model(config, model.network), model.tokenizer)
    parameters: dict[str, Tensor] = {
        name: parameter.requires_grad_()
        for name, parameter in adapted.network.named_parameters()
        if "lora_" in name
    }
    return adapted, parameters


def run_lora(
    model: MeteredModel,
    parameters: Tensors,
    evaluation: Evaluation,
    parts: Sequence[Sequence[Example]],
    settings: Settings,
    every_round: bool = False,
) -> Trace:
    """The rounds; measured at the end, or before the first and after every round."""
    trace = Trace(model, len(parts))
    if every_round:
        trace.add(evaluation.metrics(evaluation.zero_shot()), 0)
    size = sum(4 * tensor.numel() for tensor in parameters.values())
    for number in range(settings.rounds):
        run_round(model, parameters, evaluation.task, parts, settings, number)
        if every_round or number + 1 == settings.rounds:
            trace.add(evaluation.metrics(evaluation.zero_shot()), 2 * size * (number + 1))
    return trace


def run_round(
    model: MeteredModel,
    parameters: Tensors,
    task: TaskDefinition,
    parts: Sequence[Sequence[Example]],
    settings: Settings,
    number: int,
) -> None:
    """Every client's local steps from the model's adapters on, and their average, in place."""
    current = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    updates = []
    for client, part in enumerate(parts):
        load(parameters, current)
        with model.working():
            fit_adapters(model, parameters, task, part, settings, client, number)
        updates.append({name: p.detach().clone() for name, p in parameters.items()})
    counts = [len(part) for part in parts]
    load(
        parameters,
        {name: fedavg([update[name] for update in updates], counts) for name in current},
    )


def fit_adapters(
    model: HookedModel,
    parameters: Tensors,
    task: TaskDefinition,
    examples: Sequence[Example],
    settings: Settings,
    client: int,
    round_index: int,
) -> None:
    """A client's local steps, in place: `calibration.stages.fit.fit_round` for adapters."""
    targets = label_targets(model, task, examples, settings.loss)
    seed = settings.seed_of(client, round_index)
    generator = torch.Generator().manual_seed(seed)
    batches = shuffled(len(targets), settings.batch_size, settings.local_steps, generator)
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=settings.weight_decay)
    for step, positions in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate(
            settings.learning_rate, settings, round_index, step
        )
        loss = label_loss(model, [targets[position] for position in positions])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def load(parameters: Tensors, values: Tensors) -> None:
    """Copy `values` into the model's adapters."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
