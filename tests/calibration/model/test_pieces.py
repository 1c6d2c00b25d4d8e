"""Batches in pieces: which, and that gradients are those of the whole batch."""

import dataclasses

import pytest
import torch

from calibration.data.examples import Example
from calibration.model.batches import pieces
from calibration.model.hooked import HookedModel, Noise, injected
from calibration.model.loss import label_loss, label_targets
from calibration.model.objective import Objective, example_gradients
from calibration.model.sites import first_values, injection_of
from calibration.privacy.mechanism import clip
from calibration.settings import SITE_FITS, Settings, SiteFit
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import adapted_mask

ALL = list(range(12))
SETTINGS = Settings(layers=(0, 1, 2))


@pytest.fixture
def small_passes(llama: HookedModel):
    """How many padded tokens the model runs at once is set, and taken back."""
    before = llama.max_batch_tokens, llama.checkpointing

    def set_to(tokens: int, checkpointing: bool = False) -> None:
        llama.max_batch_tokens, llama.checkpointing = tokens, checkpointing

    yield set_to
    llama.max_batch_tokens, llama.checkpointing = before


@pytest.fixture
def objective(llama: HookedModel, task: TaskDefinition, examples: list[Example]):
    """Of a fit, with noise of a size from a seed."""

    def objective(fit: SiteFit = "coefficients", noise: float = 0.0) -> Objective:
        vector = torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0))
        return Objective(
            llama,
            label_targets(llama, task, examples, "restricted"),
            injection_of(fit, vector),
            first_values(fit, vector, SETTINGS),
            adapted_mask(3, SETTINGS.layers, SETTINGS.sites),
            Noise(noise, torch.Generator().manual_seed(7)),
        )

    return objective


def start(objective: Objective) -> torch.Tensor:
    return objective.values[objective.mask].requires_grad_()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_a_batch_that_fits_is_one_piece_in_its_own_order() -> None:
    assert pieces([3, 9, 5], 27) == [[0, 1, 2]]
    assert pieces([], 27) == []


def test_pieces_are_of_similar_length_and_what_is_too_long_is_alone() -> None:
    assert pieces([3, 9, 5, 40, 4], 15) == [[3], [1], [2, 4, 0]]


@pytest.mark.parametrize("fit", SITE_FITS)
def test_a_batch_that_fits_has_autograds_gradient_bit_for_bit(objective, fit: SiteFit) -> None:
    """With noise: one pass, in the batch's order."""
    positions = [7, 2, 11, 0]
    told = objective(fit, noise=1e-2)
    loss, gradient = told.gradient(positions, start(told))
    plain = objective(fit, noise=1e-2)
    adapted = start(plain)
    injection = plain.injection_of(plain.with_adapted(adapted))
    with injected(plain.model, injection, plain.mask, plain.extent, plain.noise):
        expected = label_loss(plain.model, [plain.targets[position] for position in positions])
    assert loss == expected.item()
    assert torch.equal(gradient, torch.autograd.grad(expected, adapted)[0])


@pytest.mark.parametrize("fit", SITE_FITS)
@pytest.mark.parametrize("tokens", [1, 40, 64])
def test_pieces_add_up_to_the_whole_batchs_gradient(
    objective, small_passes, fit: SiteFit, tokens: int
) -> None:
    loss_of = objective(fit)
    whole, gradient = loss_of.gradient(ALL, start(loss_of))
    small_passes(tokens)
    assert len(loss_of.pieces(ALL)) > 2
    in_pieces, added = loss_of.gradient(ALL, start(loss_of))
    assert in_pieces == pytest.approx(whole, rel=1e-6)
    assert distance(added, gradient) < 1e-6


@pytest.mark.parametrize("fit", SITE_FITS)
def test_clipped_gradients_add_up_to_those_of_the_whole_sample(
    objective, small_passes, fit: SiteFit
) -> None:
    """A private client's sample may be as large as its data."""

    def summed(norm: float) -> torch.Tensor:
        told = example_gradients(loss_of, ALL, loss_of.values[loss_of.mask])
        return torch.stack([clip(rows, norm).sum(dim=0) for _, rows in told]).sum(dim=0)

    loss_of = objective(fit)
    ((_, rows),) = example_gradients(loss_of, ALL, loss_of.values[loss_of.mask])
    norm = float(rows.flatten(1).norm(dim=1).median())  # half of them are clipped
    whole = summed(norm)
    small_passes(40)
    assert distance(summed(norm), whole) < 1e-6


def test_an_empty_sample_has_no_pieces(objective) -> None:
    loss_of = objective()
    assert list(example_gradients(loss_of, [], loss_of.values[loss_of.mask])) == []


@pytest.mark.parametrize("extent", ["all", "tail"])
@pytest.mark.parametrize("tokens", [64, 4096])
def test_checkpointing_changes_no_bit_of_a_gradient(
    objective, small_passes, hook_count, extent: str, tokens: int
) -> None:
    """The noise included: it is drawn again when a layer runs again, and goes on behind it."""
    results = []
    for checkpointing in (False, True):
        small_passes(tokens, checkpointing)
        loss_of = dataclasses.replace(objective("channels", noise=1e-2), extent=extent)
        results.append([loss_of.gradient(ALL, start(loss_of)) for _ in range(2)])
    for (loss, gradient), (same_loss, same) in zip(*results, strict=True):
        assert loss == same_loss and torch.equal(gradient, same)
    assert hook_count() == 0


def test_checkpointed_gradients_of_examples_are_the_same(objective, small_passes) -> None:
    loss_of = objective("channels")
    adapted = loss_of.values[loss_of.mask]
    ((_, plain),) = example_gradients(loss_of, ALL, adapted)
    small_passes(4096, checkpointing=True)
    ((_, checkpointed),) = example_gradients(loss_of, ALL, adapted)
    assert torch.equal(checkpointed, plain)


def test_layers_have_their_own_forward_again(objective, small_passes) -> None:
    small_passes(4096, checkpointing=True)
    loss_of = objective()
    loss_of.gradient(ALL, start(loss_of))
    assert not any("forward" in vars(layer) for layer in loss_of.model.layers)
