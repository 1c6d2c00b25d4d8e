"""Losses against scoring, and what local steps may and may not change."""

import dataclasses

import numpy as np
import pytest
import torch

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel, injected
from calibration.model.loss import label_loss, label_targets
from calibration.model.objective import Objective
from calibration.model.score import label_log_probs
from calibration.model.sites import first_values, injection_of
from calibration.settings import SITE_FITS, Settings
from calibration.stages.fit import fit_round, learning_rate
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import fold, initial_coefficients
from ifedicl_serve.contract.tokens import Prompt, token_ids
from ifedicl_serve.errors import DataError, ModelError

SETTINGS = Settings(layers=(0, 1, 2), rounds=2, local_steps=4, batch_size=4, learning_rate=0.05)


def fit(model: HookedModel, task: TaskDefinition, examples: list[Example], settings: Settings):
    """A round from the start values with a random context vector."""
    vector = torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0))
    start = initial_coefficients(3, settings.layers, settings.sites)
    return fit_round(
        model, task, examples, "coefficients", vector, start, settings, client=0, round_index=0
    )


def test_restricted_loss_is_what_scoring_says(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    prompts = [task.prompt.render(example.text) for example in examples]
    scores = label_log_probs(llama, prompts, task.trie(llama.tokenizer))
    expected = -scores[np.arange(12), task.indices(examples)].mean()
    loss = label_loss(llama, label_targets(llama, task, examples, "restricted"))
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_vocabulary_loss_is_the_label_tokens_cross_entropy(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    expected = 0.0
    for example in examples:
        head = token_ids(llama.tokenizer, task.prompt.render(example.text))
        full = token_ids(
            llama.tokenizer, task.prompt.render(example.text) + Prompt((" " + example.label,))
        )
        log_probs = llama.network(torch.tensor([full])).logits[0].log_softmax(-1)
        for position in range(len(head), len(full)):
            expected -= float(log_probs[position - 1, full[position]]) / len(examples)
    loss = label_loss(llama, label_targets(llama, task, examples, "vocabulary"))
    assert float(loss) == pytest.approx(expected, abs=1e-4)


def test_single_token_labels_need_the_prompt_alone(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    single = dataclasses.replace(task, labels=(task.labels[0], task.labels[2]))
    rows = [example for example in examples if example.label in single.names]
    for target, row in zip(label_targets(llama, single, rows, "restricted"), rows, strict=True):
        assert target.ids == token_ids(llama.tokenizer, single.prompt.render(row.text))
        assert len(target.decisions) == 1


@pytest.mark.parametrize("loss", ["restricted", "vocabulary"])
def test_loss_falls_and_untouched_sites_stay_exactly_identity(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], loss
) -> None:
    settings = dataclasses.replace(SETTINGS, layers=(2,), sites=("mlp",), loss=loss)
    settings = dataclasses.replace(settings, local_steps=20, batch_size=12)
    update = fit(llama, task, examples, settings)
    identity = initial_coefficients(3, [], [])
    touched = (update.values != identity).any(dim=-1)
    assert touched.nonzero().tolist() == [[2, 1]]
    assert len(update.losses) == 20
    assert update.losses[-1] < update.losses[0]


def test_same_seed_same_update_and_every_client_and_round_its_own(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    first, again = (fit(llama, task, examples, SETTINGS) for _ in range(2))
    assert torch.equal(first.values, again.values)
    assert first.losses == again.losses
    other = fit(llama, task, examples, dataclasses.replace(SETTINGS, seed=1))
    assert not torch.equal(first.values, other.values)
    seeds = {SETTINGS.seed_of(client, number) for client in range(5) for number in range(-1, 5)}
    assert len(seeds) == 30


def test_batches_larger_than_the_data_are_filled(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    update = fit(llama, task, examples[:2], SETTINGS)
    assert update.count == 2


def test_bf16_fits_too(llama_folder, task: TaskDefinition, examples: list[Example]) -> None:
    from calibration.model.load import load_model

    update = fit(load_model(str(llama_folder), "bf16"), task, examples, SETTINGS)
    assert update.values.dtype == torch.float32
    assert torch.isfinite(update.values).all()


def test_a_loss_that_is_not_finite_is_refused(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    vector = torch.full((3, 2, 64), torch.inf)
    start = initial_coefficients(3, SETTINGS.layers, SETTINGS.sites)
    with pytest.raises(ModelError, match="loss of client 7 became nan in round 2, step 0"):
        fit_round(
            llama, task, examples, "coefficients", vector, start, SETTINGS, client=7, round_index=1
        )


def test_learning_rate_warms_up_then_falls_to_nothing() -> None:
    settings = dataclasses.replace(SETTINGS, rounds=2, local_steps=50)
    rates = [
        learning_rate(settings.learning_rate, settings, number, step)
        for number in range(2)
        for step in range(50)
    ]
    assert all(rate > 0 for rate in rates)
    assert max(rates) == pytest.approx(settings.learning_rate, rel=0.01)
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)
    assert rates[0] < 0.05 * settings.learning_rate and rates[-1] < 0.01 * settings.learning_rate


@pytest.mark.parametrize("width", [(2,), (2, 5)], ids=["coefficients", "channels"])
def test_with_adapted_touches_the_mask_alone(width) -> None:
    values = torch.zeros(2, 2, *width)
    mask = torch.tensor([[True, False], [False, True]])
    objective = Objective(None, (), None, values, mask, None)
    replaced = objective.with_adapted(torch.ones(2, *width))
    assert replaced.flatten(2).mean(dim=-1).tolist() == [[1, 0], [0, 1]]
    assert (values == 0).all()
    each = torch.arange(3.0).reshape(3, *(1 for _ in (2, *width))).expand(3, 2, *width)
    assert torch.equal(objective.with_adapted(each)[2], 2 * replaced)


def test_channels_begin_as_the_coefficients_do_and_go_further(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    settings = dataclasses.replace(SETTINGS, layers=(1, 2), local_steps=30, noise=0.0)
    vector = torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0))
    start = first_values("channels", vector, settings)
    begun = injection_of("channels", vector)(start)
    folded = fold(vector, initial_coefficients(3, settings.layers, settings.sites))
    torch.testing.assert_close(begun.shift, folded.shift)
    assert torch.equal(begun.scale, folded.scale.expand(3, 2, 64))
    losses = {}
    for fit in SITE_FITS:
        values = first_values(fit, vector, settings)
        update = fit_round(llama, task, examples, fit, vector, values, settings, 0, 0)
        assert update.values.shape == values.shape
        assert torch.equal(update.values[0], values[0])
        losses[fit] = update.losses
    assert losses["channels"][0] == pytest.approx(losses["coefficients"][0], abs=1e-5)
    assert losses["channels"][-1] < losses["coefficients"][-1]


def test_with_extent_tail_the_text_is_read_as_by_the_base_model(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    """So the hidden states of its tokens, which the loss never sees, are the baseline's."""
    targets = label_targets(llama, task, examples[:1], "restricted")
    tail = task.tail_tokens(llama.tokenizer)
    prompt = token_ids(llama.tokenizer, task.prompt.render(examples[0].text))
    assert targets[0].start == len(prompt) - tail
    injection = fold(torch.randn(3, 2, 64), torch.full((3, 2, 2), 0.5))
    everywhere = torch.ones(3, 2, dtype=torch.bool)
    baseline = llama.hidden([targets[0].ids])
    with injected(llama, injection, everywhere, "tail"):
        adapted = llama.hidden([targets[0].ids], [targets[0].start])
    assert torch.equal(adapted[:, : targets[0].start], baseline[:, : targets[0].start])
    assert not torch.allclose(adapted[:, targets[0].start :], baseline[:, targets[0].start :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ()}, "no layer or no site"),
        ({"loss": "hinge"}, "loss 'hinge' is unknown .known: restricted, vocabulary."),
        ({"rounds": 0}, "rounds is 0"),
        ({"learning_rate": 0.0}, "learning rate is 0.0"),
    ],
)
def test_settings_check_themselves(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataclasses.replace(SETTINGS, **change)
