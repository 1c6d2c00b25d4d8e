"""Stage 2, on a client: local AdamW steps on the coefficients alone, the model frozen.

Pure but for the model it runs: a client and round always draw the same batches and noise, so a
resumed run and a federated client get the same result. Unless the settings ask for privacy:
then batches and noise are nobody's to draw again, and losses stay on the client.
"""

import hashlib
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.data.examples import Example
from calibration.model.batches import shuffled
from calibration.model.hooked import HookedModel, Noise, injected
from calibration.model.loss import Target, label_loss, label_targets
from calibration.privacy.accountant import noise_multiplier, sampling_rate
from calibration.privacy.mechanism import SYSTEM, Randomness, clip, noised, poisson_sample
from calibration.settings import Settings
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.errors import ModelError

OnStep = Callable[[int, float], None]
WARM_UP = 0.2  # part of all steps


@dataclass(frozen=True)
class ClientUpdate:
    """A client's coefficients [layers, 2, 2] after its local steps, its number of examples, and
    the loss of each step; private clients keep their losses."""

    coefficients: Tensor
    count: int
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Objective:
    """The loss of a client's examples as a function of the adapted coefficients."""

    model: HookedModel
    targets: Sequence[Target]
    context_vector: Tensor  # [layers, 2, hidden]
    coefficients: Tensor  # [layers, 2, 2], the values where nothing is adapted
    mask: Tensor  # [layers, 2]
    noise: Noise

    def __call__(self, positions: Sequence[int], adapted: Tensor) -> Tensor:
        """Mean loss of the examples at `positions`; `adapted` is [sites, 2], or [batch, sites, 2]
        for every example under coefficients of its own."""
        current = with_adapted(self.coefficients, self.mask, adapted)
        with injected(self.model, self.context_vector, current, self.mask, self.noise):
            return label_loss(self.model, [self.targets[position] for position in positions])


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
    # How many tokens a batch is padded to decides which forward noise an example gets, so with
    # a known seed one example would have a say in the gradients of the others.
    known = derived_seed(settings.seed, client, round_index)
    seed = secrets.randbits(63) if settings.private else known
    mask = adapted_mask(model.num_layers, settings.layers, settings.sites)
    objective = Objective(
        model,
        label_targets(model, task, examples, settings.loss),
        context_vector,
        coefficients,
        mask,
        Noise(settings.noise, torch.Generator(model.device).manual_seed(seed)),
    )
    gradients = (
        PrivateGradients(objective, settings, randomness)
        if settings.private
        else ShuffledGradients(objective, settings, seed)
    )
    adapted = coefficients[mask].clone().requires_grad_()  # [sites, 2]
    optimizer = torch.optim.AdamW([adapted], weight_decay=settings.weight_decay)
    losses = []
    for step in range(settings.local_steps):
        optimizer.param_groups[0]["lr"] = learning_rate(settings, round_index, step)
        loss, adapted.grad = gradients(adapted)
        optimizer.step()
        if not settings.private:  # a private client's failing would tell of its examples
            losses.append(_finite(loss, client, round_index, step))
        on_step(step, loss)
    fitted = with_adapted(coefficients, mask, adapted.detach())
    return ClientUpdate(fitted, len(examples), tuple(losses))


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
        loss = self.objective(next(self.batches), adapted)
        (gradient,) = torch.autograd.grad(loss, adapted)
        return loss.item(), gradient


class PrivateGradients:
    """DP-SGD's gradient (Abadi et al., arXiv 1607.00133): a Poisson sample of the examples, each
    one's gradient clipped, Gaussian noise on their sum, over the expected batch size."""

    def __init__(self, objective: Objective, settings: Settings, randomness: Randomness) -> None:
        self.objective = objective
        self.count = len(objective.targets)
        self.rate = sampling_rate(settings, self.count)
        self.multiplier = noise_multiplier(settings, self.count)
        self.norm = settings.gradient_clip
        self.randomness = randomness

    def __call__(self, adapted: Tensor) -> tuple[float, Tensor]:
        positions = poisson_sample(self.count, self.rate, self.randomness)
        loss, rows = example_gradients(self.objective, positions, adapted.detach())
        # Zeroing out an example moves the sum by at most the clipping norm.
        total = clip(rows, self.norm).sum(dim=0)
        noisy = noised(total, self.multiplier * self.norm, self.randomness)
        return loss, noisy / (self.rate * self.count)


def example_gradients(
    objective: Objective, positions: Sequence[int], adapted: Tensor
) -> tuple[float, Tensor]:
    """Mean loss and every example's own gradient [examples, sites, 2], in one backward pass.

    Each example gets a copy of the coefficients, so the gradient of the summed loss by the
    copies is the gradient of each example's loss. No examples: a loss of 0 and no rows.
    """
    rows = adapted.repeat(len(positions), 1, 1).requires_grad_()
    if not positions:
        return 0.0, rows.detach()
    loss = objective(positions, rows)
    (gradients,) = torch.autograd.grad(loss * len(positions), rows)
    return loss.item(), gradients


def with_adapted(coefficients: Tensor, mask: Tensor, adapted: Tensor) -> Tensor:
    """`coefficients` with the sites of `mask` replaced; the others stay exactly as they are.

    `adapted` is [sites, 2] or [batch, sites, 2], the result [layers, 2, 2] or with `batch` first.
    """
    replaced = coefficients.expand(*adapted.shape[:-2], *coefficients.shape).clone()
    replaced[..., mask, :] = adapted
    return replaced


def derived_seed(seed: int, client: int, round_index: int) -> int:
    """A seed of its own for every client and round, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{client}/{round_index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch seeds are signed


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


def _finite(loss: float, client: int, round_index: int, step: int) -> float:
    if not math.isfinite(loss):
        raise ModelError(
            f"the loss of client {client} became {loss} in round {round_index + 1}, step {step}; "
            "lower --lr or calibrate with --dtype fp32"
        )
    return loss
