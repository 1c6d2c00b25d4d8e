"""Extraction in batches equals extraction one by one."""

import pytest
import torch

from calibration.data.demonstrations import choose_demonstrations
from calibration.data.examples import Example
from calibration.model.activations import mean_activation
from calibration.model.hooked import HookedModel, recorded
from calibration.settings import Settings
from calibration.stages.extract import extract_vector
from calibration.task import TaskDefinition
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.errors import DataError


def test_batched_equals_one_by_one(
    llama: HookedModel, task: TaskDefinition, examples: list[Example]
) -> None:
    client = extract_vector(llama, task, examples, Settings(layers=(0,)), client=0)
    singles = []
    for example in examples:
        ids = token_ids(llama.tokenizer, task.demonstration(example))
        with recorded(llama, [ids]) as outputs:
            llama.hidden([ids])
        singles.append(outputs[0])
    expected = torch.stack(singles).mean(dim=0)
    assert client.vector.shape == (3, 2, 64) and client.vector.dtype == torch.float32
    torch.testing.assert_close(client.vector, expected, rtol=1e-5, atol=1e-5)
    assert client.count == 12
    assert client.label_counts == dict.fromkeys(task.names, 3)


def test_demonstration_is_prompt_space_label_separator(task: TaskDefinition) -> None:
    shown = task.demonstration(Example("hi", "water bill"))
    assert str(shown) == "Text: hi\nLabel: water bill\n\n"


def test_the_last_token_is_the_separators(llama: HookedModel, task: TaskDefinition) -> None:
    """A demonstration's activation is read where the next one would begin."""
    ids = token_ids(llama.tokenizer, task.demonstration(Example("hi", "water")))
    assert llama.tokenizer.decode(ids[-1:]) in ("\n\n", "\n")
    shorter = mean_activation(llama, [ids[:-1]])
    assert not torch.equal(mean_activation(llama, [ids]), shorter)


def test_limit_takes_labels_in_turn(examples: list[Example], task: TaskDefinition) -> None:
    chosen = choose_demonstrations(examples, 8, seed=5)
    assert sorted(example.label for example in chosen) == sorted(task.names * 2)
    assert chosen == choose_demonstrations(examples, 8, seed=5)
    assert sorted(choose_demonstrations(examples, 0, 5), key=str) == sorted(examples, key=str)


def test_a_client_without_examples_is_refused(llama: HookedModel, task: TaskDefinition) -> None:
    with pytest.raises(DataError, match="no examples"):
        extract_vector(llama, task, [], Settings(layers=(0,)), client=0)
