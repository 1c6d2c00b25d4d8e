"""Stage 2, on a client: local AdamW steps on the coefficients alone, the model frozen.

Pure but for the model it runs: a client and round always draw the same batches and noise, so a
resumed run and a federated client get the same result. Unless the settings ask for privacy:
then batches and noise are nobody's to draw again, and losses stay on the client.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel, Noise
from calibration.model.loss import label_targets
from calibration.model.objective import Objective
from calibration.privacy.mechanism import SYSTEM, Randomness
from calibration.settings import Settings
from calibration.stages.manner import manner_of
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import adapted_mask

OnStep = Callable[[int, float], None]
WARM_UP = 0.2  # part of all steps


@dataclass(frozen=True)
class ClientUpdate:
    """A client's coefficients [layers, 2, 2] after its local steps, its number of examples, and
    the loss of each step; private clients keep their losses."""

    coefficients: Tensor
    count: int
    losses: tuple[float, ...]


def fit_round(
    model: HookedModel,
    task: TaskDefinition,
    examples: Sequence[Example],
    context_vector: Tensor,
    coefficients: Tensor,
    settings: Settings,
    client: int,
    round_index: int,
    on_step: OnStep = lambda step, loss: None,
    randomness: Randomness = SYSTEM,
) -> ClientUpdate:
    """Fit the coefficients to a client's examples, with the global context vector injected.

    `on_step` is told losses also of a private client; they must not leave it.
    """
    manner = manner_of(settings, client, randomness)
    seed = manner.seed(round_index)
    mask = adapted_mask(model.num_layers, settings.layers, settings.sites)
    objective = Objective(
        model,
        label_targets(model, task, examples, settings.loss),
        context_vector,
        coefficients,
        mask,
        Noise(settings.noise, torch.Generator(model.device).manual_seed(seed)),
        settings.extent,
    )
    gradients = manner.gradients(objective, seed)
    adapted = coefficients[mask].clone().requires_grad_()  # [sites, 2]
    optimizer = torch.optim.AdamW([adapted], weight_decay=settings.weight_decay)
    losses: tuple[float, ...] = ()
    for step in range(settings.local_steps):
        optimizer.param_groups[0]["lr"] = learning_rate(settings, round_index, step)
        loss, adapted.grad = gradients(adapted)
        optimizer.step()
        losses += manner.told(loss, round_index, step)
        on_step(step, loss)
    return ClientUpdate(objective.with_adapted(adapted.detach()), len(examples), losses)


def learning_rate(settings: Settings, round_index: int, step: int) -> float:
    """Rising for the first part of all rounds' steps, then falling along half a cosine.

    Adam's first steps all have full size in the direction of noise; without the rise they
    throw the few coefficients far off (banking, trial model: log-loss 1.90, with it 1.87).
    """
    steps = settings.rounds * settings.local_steps
    done = (round_index * settings.local_steps + step + 0.5) / steps
    rise = done / WARM_UP
    fall = (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
    return settings.learning_rate * (rise if done < WARM_UP else fall)
