"""Exact identities of the hooks, and that none outlives its block."""

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
)

from calibration.model.hooked import (
    SITE_MODULES,
    HookedModel,
    Noise,
    decoder_layers,
    injected,
    last_tokens,
    recorded,
)
from calibration.model.load import load_model
from ifedicl_serve.contract.injection import (
    BETA,
    LAMBDA,
    SITES,
    Injection,
    fold,
    initial_coefficients,
)
from ifedicl_serve.errors import DataError, ModelError
from tests.calibration.conftest import SHAPE

SEQUENCES = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
EVERYWHERE = torch.ones(3, 2, dtype=torch.bool)


def vector(model: HookedModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(model.num_layers, 2, model.hidden_size, generator=generator)


def identity(layers: int) -> torch.Tensor:
    return initial_coefficients(layers, [], [])


def test_lambda_0_beta_1_equals_baseline_exactly(llama: HookedModel, qwen2: HookedModel) -> None:
    for model in (llama, qwen2):
        mask = torch.ones(model.num_layers, 2, dtype=torch.bool)
        baseline = model.hidden(SEQUENCES)
        with injected(model, fold(vector(model), identity(model.num_layers)), mask):
            assert torch.equal(model.hidden(SEQUENCES), baseline)


def test_after_the_block_the_model_is_the_baseline_again(llama: HookedModel, hook_count) -> None:
    baseline = llama.hidden(SEQUENCES)
    with injected(llama, fold(vector(llama), torch.full((3, 2, 2), 0.5)), EVERYWHERE):
        assert not torch.equal(llama.hidden(SEQUENCES), baseline)
        assert hook_count() == 6
    assert torch.equal(llama.hidden(SEQUENCES), baseline)
    assert hook_count() == 0


def test_hooks_are_removed_when_set_up_fails_half_way(
    llama: HookedModel, hook_count, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(hook):
        raise RuntimeError("no more hooks")

    monkeypatch.setattr(llama.layers[1].mlp, "register_forward_hook", refuse)
    with (
        pytest.raises(RuntimeError, match="no more hooks"),
        injected(llama, fold(vector(llama), identity(3)), EVERYWHERE),
    ):
        pass
    assert hook_count() == 0


def test_hooks_are_removed_when_the_block_raises(llama: HookedModel, hook_count) -> None:
    with (
        pytest.raises(KeyError),
        injected(llama, fold(vector(llama), identity(3)), EVERYWHERE),
    ):
        raise KeyError
    assert hook_count() == 0


def test_site_output_is_beta_h_plus_lambda_v(llama: HookedModel) -> None:
    """The last layer's MLP, the only site whose input no other injection changes here."""
    coefficients, mask = identity(3), torch.zeros(3, 2, dtype=torch.bool)
    coefficients[2, 1] = torch.tensor([0.3, 0.8])
    mask[2, 1] = True
    with recorded(llama, SEQUENCES) as plain:
        llama.hidden(SEQUENCES)
    with (
        injected(llama, fold(vector(llama), coefficients), mask),
        recorded(llama, SEQUENCES) as adapted,
    ):
        llama.hidden(SEQUENCES)
    assert torch.equal(adapted[:, :2], plain[:, :2])
    assert torch.equal(adapted[:, 2, 0], plain[:, 2, 0])
    expected = 0.8 * plain[:, 2, 1] + 0.3 * vector(llama)[2, 1]
    torch.testing.assert_close(adapted[:, 2, 1], expected, rtol=1e-6, atol=1e-6)


def test_with_extent_tail_what_stands_before_it_is_the_baseline(llama: HookedModel) -> None:
    """Exactly: attention is causal. A sequence whose tail begins at 0 is adapted everywhere."""
    baseline, starts = llama.hidden(SEQUENCES), [2, 0, 1]
    injection = fold(vector(llama), torch.full((3, 2, 2), 0.5))
    with injected(llama, injection, EVERYWHERE):
        everywhere = llama.hidden(SEQUENCES)
    with injected(llama, injection, EVERYWHERE, "tail"):
        assert torch.equal(llama.hidden(SEQUENCES), baseline)
        tails = llama.hidden(SEQUENCES, starts)
    assert torch.equal(tails[0, :2], baseline[0, :2])
    assert not torch.isclose(tails[0, 2], baseline[0, 2]).all()
    assert torch.equal(tails[1], everywhere[1])
    assert torch.equal(tails[2, :1], baseline[2, :1])


@pytest.mark.parametrize(
    ("config", "network"),
    [(MistralConfig, MistralForCausalLM), (Gemma3TextConfig, Gemma3ForCausalLM)],
)
def test_behind_what_was_read_before_sequences_are_as_read_whole(config, network) -> None:
    """Also behind a beginning that is longer than a sliding window, of all layers or of most."""
    torch.manual_seed(0)
    model = HookedModel(network(config(**SHAPE, sliding_window=8)), tokenizer=None)
    head, ends = list(range(1, 21)), [[50, 51, 52], [60] * 12, [70, 71]]
    with torch.inference_mode():
        whole = model.hidden([head + end for end in ends])
        behind = model.hidden(ends, beginning=model.begin(head))
    for row, end in enumerate(ends):
        expected = whole[row, len(head) : len(head) + len(end)]
        torch.testing.assert_close(behind[row, : len(end)], expected, rtol=1e-5, atol=1e-5)


def test_a_scale_of_one_number_everywhere_is_that_number_bit_for_bit(llama: HookedModel) -> None:
    injection = fold(vector(llama), torch.full((3, 2, 2), 0.7))
    by_channel = Injection(injection.scale.expand(3, 2, 64).clone(), injection.shift)
    with injected(llama, injection, EVERYWHERE):
        by_site = llama.hidden(SEQUENCES)
    with injected(llama, by_channel, EVERYWHERE):
        assert torch.equal(llama.hidden(SEQUENCES), by_site)


def test_recorded_is_each_sites_output_at_the_last_real_token(llama: HookedModel) -> None:
    seen = {}
    module = getattr(llama.layers[1], SITE_MODULES["attn"])
    handle = module.register_forward_hook(lambda m, i, output: seen.update(h=output[0]))
    with recorded(llama, SEQUENCES) as outputs:
        llama.hidden(SEQUENCES)
    handle.remove()
    for row, ids in enumerate(SEQUENCES):
        assert torch.equal(outputs[row, 1, 0], seen["h"][row, len(ids) - 1])


def test_padding_on_the_right_changes_nothing(llama: HookedModel) -> None:
    batch = last_tokens(llama.hidden(SEQUENCES), SEQUENCES)
    alone = torch.cat([last_tokens(llama.hidden([ids]), [ids]) for ids in SEQUENCES])
    torch.testing.assert_close(batch, alone, rtol=1e-5, atol=1e-5)


def test_gradient_reaches_the_coefficients_of_selected_sites_only(llama: HookedModel) -> None:
    coefficients = initial_coefficients(3, range(3), SITES).requires_grad_()
    mask = torch.zeros(3, 2, dtype=torch.bool)
    mask[1, 0] = mask[2, 1] = True
    with injected(llama, fold(vector(llama), coefficients), mask):
        llama.hidden(SEQUENCES).sum().backward()
    touched = coefficients.grad.abs().sum(dim=-1) > 0
    assert torch.equal(touched, mask)
    assert (coefficients.grad[mask][:, [LAMBDA, BETA]] != 0).all()
    assert all(parameter.grad is None for parameter in llama.network.parameters())


def test_noise_has_the_stated_size_and_repeats_by_seed() -> None:
    h = torch.ones(200, 64)
    first, second = (Noise(0.1, torch.Generator().manual_seed(4))(h) for _ in range(2))
    assert torch.equal(first, second)
    assert float((first - h).std()) == pytest.approx(0.1 * 8, rel=0.05)  # norm of 64 ones is 8


def test_logits_of_some_rows_are_those_of_the_whole_head(llama: HookedModel) -> None:
    hidden = last_tokens(llama.hidden(SEQUENCES), SEQUENCES)
    rows = [7, 4000, 12]
    torch.testing.assert_close(llama.logits(hidden, rows), llama.logits(hidden)[:, rows])


def test_too_long_a_prompt_says_both_lengths(llama: HookedModel) -> None:
    with pytest.raises(DataError, match="has 513 tokens, the model reads at most 512"):
        llama.hidden([[1] * 513])


def test_a_model_without_the_sites_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"Linear is not among the .* \(LlamaForCausalLM, "):
        decoder_layers(torch.nn.Linear(1, 1))
    with pytest.raises(ModelError, match="cannot load model"):
        load_model(str(tmp_path / "nothing"))
