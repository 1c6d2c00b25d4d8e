"""Stage 2, on a client: local AdamW steps on the values at the sites alone, the model frozen.

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
from calibration.model.sites import decay_origin, injection_of
from calibration.privacy.mechanism import SYSTEM, Randomness
from calibration.settings import Settings, SiteFit
from calibration.stages.manner import manner_of
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import adapted_mask

OnStep = Callable[[int, float], None]
WARM_UP = 0.2  # part of all steps


@dataclass(frozen=True)
class ClientUpdate:
    """A client's values [layers, 2, ...] after its local steps, its number of examples, and the
    loss of each step; private clients keep their losses."""

    values: Tensor
    count: int
    losses: tuple[float, ...]


def fit_round(
    model: HookedModel,
    task: TaskDefinition,
    examples: Sequence[Example],
    fit: SiteFit,
    context_vector: Tensor,
    values: Tensor,
    settings: Settings,
    client: int,
    round_index: int,
    on_step: OnStep = lambda step, loss: None,
    randomness: Randomness = SYSTEM,
) -> ClientUpdate:
    """Fit the values to a client's examples, from those of all clients on.

    `on_step` is told losses also of a private client; they must not leave it.
    """
    manner = manner_of(settings, client, randomness)
    seed = manner.seed(round_index)
    mask = adapted_mask(model.num_layers, settings.layers, settings.sites)
    objective = Objective(
        model,
        label_targets(model, task, examples, settings.loss),
        injection_of(fit, context_vector),
        values,
        mask,
        Noise(settings.noise, torch.Generator(model.device).manual_seed(seed)),
        settings.extent,
    )
    gradients = manner.gradients(objective, seed)
    origin = decay_origin(fit, context_vector, settings)[mask]  # [sites, ...]
    moved = (values[mask] - origin).requires_grad_()
    optimizer = torch.optim.AdamW([moved], weight_decay=settings.weight_decay)
    peak = settings.peak_learning_rate(fit)
    losses: tuple[float, ...] = ()
    for step in range(settings.local_steps):
        optimizer.param_groups[0]["lr"] = learning_rate(peak, settings, round_index, step)
        loss, moved.grad = gradients(origin + moved)
        optimizer.step()
        losses += manner.told(loss, round_index, step)
        on_step(step, loss)
    fitted = objective.with_adapted(origin + moved.detach())
    return ClientUpdate(fitted, len(examples), losses)


def learning_rate(peak: float, settings: Settings, round_index: int, step: int) -> float:
    """Rising to `peak` for the first part of all rounds' steps, then falling along half a cosine.

    Adam's first steps all have full size in the direction of noise; without the rise they
    throw the few coefficients far off (banking, trial model: log-loss 1.90, with it 1.87).
    """
    steps = settings.rounds * settings.local_steps
    done = (round_index * settings.local_steps + step + 0.5) / steps
    rise = done / WARM_UP
    fall = (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
    return peak * (rise if done < WARM_UP else fall)
