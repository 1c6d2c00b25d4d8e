"""Trie scores against the plain chain rule, and that they are probabilities."""

import numpy as np
import pytest
import torch

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel, injected
from calibration.model.score import LONG, label_features, label_log_probs
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import fold
from ifedicl_serve.contract.tokens import Prompt, token_ids


def prompts(task: TaskDefinition, examples: list[Example]) -> list[Prompt]:
    return [task.prompt.render(example.text) for example in examples]


def test_probabilities_sum_to_1_with_shared_prefixes(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    trie = task.trie(llama.tokenizer)
    assert len(trie.nodes) == 3  # the root, after "water", after "energy"
    scores = label_log_probs(llama, prompts(task, examples), trie)
    assert scores.shape == (12, 4) and scores.dtype == np.float32
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-6)
    assert np.ptp(scores[:, 0]) > 0.01  # the text matters


def test_equals_the_chain_rule_done_by_hand(llama: HookedModel, task: TaskDefinition) -> None:
    prompt = task.prompt.render("some text")
    scores = label_log_probs(llama, [prompt], task.trie(llama.tokenizer))[0]
    ids = token_ids(llama.tokenizer, prompt)
    water, bill, energy, sun = task.label_tokens(llama.tokenizer)
    with torch.inference_mode():
        root = llama.network(torch.tensor([ids])).logits[0, -1]
        inner = llama.network(torch.tensor([ids + [water[0]]])).logits[0, -1]
    assert water[0] == bill[0] and energy[0] == sun[0]
    first = root[[water[0], energy[0]]].log_softmax(0)
    second = inner[[water[1], bill[1]]].log_softmax(0)
    np.testing.assert_allclose(scores[:2], (first[0] + second).numpy(), atol=1e-5)


def test_batching_changes_nothing(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    trie = task.trie(llama.tokenizer)
    together = label_log_probs(llama, prompts(task, examples), trie)
    alone = [label_log_probs(llama, [prompt], trie)[0] for prompt in prompts(task, examples)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("extent", ["all", "tail"])
def test_what_prompts_begin_with_is_read_once_and_they_say_the_same(
    request, task: TaskDefinition, examples: list[Example], name: str, extent: str
) -> None:
    """As each alone, which begins with nothing that others do; adapted, and on every node."""
    model: HookedModel = request.getfixturevalue(name)
    trie, tail = task.trie(model.tokenizer), task.tail_tokens(model.tokenizer)
    asked = [task.few_shot_prompt(examples[:5], example.text) for example in examples]
    begun: list[int] = []
    injection = fold(torch.randn(3, 2, 64), torch.full((3, 2, 2), 0.3))
    mask = torch.ones(3, 2, dtype=torch.bool)
    begin = model.begin
    with pytest.MonkeyPatch.context() as patch, injected(model, injection, mask, extent):
        patch.setattr(model, "begin", lambda ids: begun.append(len(ids)) or begin(ids))
        together = label_features(model, asked, trie, tail)
        assert len(begun) == 1 and begun[0] >= LONG
        alone = [label_features(model, [prompt], trie, tail) for prompt in asked]
        equal = label_features(model, [asked[0]] * 2, trie, tail)  # but for their tails
    assert len(begun) == 2
    for part in range(2):
        expected = np.concatenate([one[part] for one in alone])
        np.testing.assert_allclose(together[part], expected, atol=1e-4)
        np.testing.assert_allclose(equal[part], expected[[0, 0]], atol=1e-4)


def test_a_short_beginning_is_read_with_each_prompt(
    llama: HookedModel, task: TaskDefinition, examples: list[Example], monkeypatch
) -> None:
    """Bit for bit as ever."""
    monkeypatch.setattr(llama, "begin", None)
    label_features(llama, prompts(task, examples), task.trie(llama.tokenizer))


def test_few_shot_prompt_is_demonstrations_then_prompt(task: TaskDefinition) -> None:
    shown = [Example("a", "water"), Example("b", "energy")]
    expected = "Text: a\nLabel: water\n\nText: b\nLabel: energy\n\nText: c\nLabel:"
    assert str(task.few_shot_prompt(shown, "c")) == expected
