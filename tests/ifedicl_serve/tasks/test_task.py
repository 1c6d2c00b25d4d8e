"""What a task's answers take, and how they are read out of an engine's scores."""

import numpy as np
import pytest
import torch

from ifedicl_serve.contract.artifact import save_artifact
from ifedicl_serve.contract.prompt import tail_tokens
from ifedicl_serve.contract.readout import Readout
from ifedicl_serve.errors import TaskUnavailableError
from ifedicl_serve.tasks.task import Task
from tests.ifedicl_serve.factory import HIDDEN, make_spec, make_vectors

LABELS = ("good", "good enough", "bad")  # two nodes
READOUTS = {
    "none": {},
    "bias": {"sharpness": torch.tensor([1.5]), "bias": torch.tensor([0.5, -1.0, 0.25])},
}
READOUTS["head"] = READOUTS["bias"] | {"label_rows": torch.ones(3, HIDDEN)}


@pytest.fixture
def make(tmp_path, bpe):
    def make(readout="none", **changes):
        spec = make_spec(labels=LABELS, **changes)
        artifact = save_artifact(spec, make_vectors(spec) | READOUTS[readout], tmp_path / "task")
        return Task.of(artifact, bpe, artifact.spec.name)

    return make


def choices_of(task, prompts=5, seed=0):
    """Log-softmaxes of the trie's nodes."""
    generator = np.random.default_rng(seed)
    nodes = [generator.normal(size=(prompts, len(node.children))) for node in task.trie.nodes]
    logs = [node - np.log(np.exp(node).sum(axis=1, keepdims=True)) for node in nodes]
    return np.concatenate(logs, axis=1).astype(np.float32)


def test_without_a_readout_probabilities_are_those_of_the_trie_bit_for_bit(make):
    task = make()
    choices = choices_of(task)
    expected = np.exp((choices @ task.trie.paths.T).astype(np.float64))
    np.testing.assert_array_equal(task.read_out(choices), expected)
    assert (task.readout, task.label_rows) == (None, 0)


def test_sharpness_and_bias_are_applied_to_whole_labels(make):
    task = make("bias")
    choices = choices_of(task)
    logits = 1.5 * (choices @ task.trie.paths.T) + np.array([0.5, -1.0, 0.25])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(task.read_out(choices), expected, rtol=1e-6)
    np.testing.assert_allclose(task.read_out(choices).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(task.read_out(choices[0]), task.read_out(choices)[0])


def test_row_scores_are_added_to_whole_labels(make):
    task = make("head")
    choices, rows = choices_of(task), np.random.default_rng(1).normal(size=(5, 3))
    plain = Readout(1.5, READOUTS["bias"]["bias"].numpy())
    moved = plain(choices @ task.trie.paths.T, rows.astype(np.float32))
    np.testing.assert_allclose(task.read_out(choices, rows.astype(np.float32)), np.exp(moved))
    assert task.label_rows == 3


def test_unadapted_is_without_the_readout(make):
    task = make("bias")
    choices = choices_of(task)
    expected = np.exp((choices @ task.trie.paths.T).astype(np.float64))
    np.testing.assert_array_equal(task.read_out(choices, adapted=False), expected)


@pytest.mark.parametrize(
    ("where", "value"), [("choices", np.nan), ("rows", np.nan), ("rows", np.inf)]
)
def test_nan_anywhere_is_a_task_that_no_worker_could_load(make, where, value):
    task = make("head")
    scores = {"choices": choices_of(task), "rows": np.zeros((5, 3), np.float32)}
    scores[where][2, 1] = value
    with pytest.raises(TaskUnavailableError, match="could not be loaded by the engine"):
        task.read_out(scores["choices"], scores["rows"])


def test_a_task_keeps_no_rows_in_memory(make):
    assert make("head").readout.label_rows is None


def test_the_tail_is_that_of_its_prompt(make, bpe):
    whole, tail = make(), make(extent="tail")
    assert whole.tail is None
    assert tail.tail == tail_tokens(bpe, tail.spec.prompt) > 0
