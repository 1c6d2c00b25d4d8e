"""The label trie, by hand and by property: probabilities over labels always sum to 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifedicl_serve.contract.labels import LabelTrie, TrieNode
from ifedicl_serve.errors import PromptError

END = 0  # the terminator, the separator's first token

token = st.integers(1, 3)  # few tokens, so that labels share prefixes
label_sets = st.lists(
    st.lists(token, min_size=1, max_size=4).map(lambda tokens: (*tokens, END)),
    min_size=2,
    max_size=12,
    unique=True,
)


def build(*tokens):
    return LabelTrie.build([f"label {index}" for index in range(len(tokens))], tokens)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum())


def random_choices(trie, seed):
    """A log-softmax per node, concatenated as the engine's answers are."""
    random = np.random.default_rng(seed)
    return np.concatenate([log_softmax(random.normal(0, 3, len(n.children))) for n in trie.nodes])


def test_labels_of_one_token_need_one_node():
    trie = build((7, END), (5, END), (9, END))
    assert trie.nodes == (TrieNode(path=(), children=(7, 5, 9)),)
    assert np.array_equal(trie.paths, np.eye(3))


def test_labels_of_several_tokens_that_differ_in_the_first_need_one_node():
    trie = build((7, 8, END), (5, END))
    assert trie.nodes == (TrieNode((), (7, 5)),)
    assert np.array_equal(trie.paths, np.eye(2))


def test_a_shared_first_token_adds_a_node_below_it():
    trie = build((1, 4, END), (1, 5, END), (2, END))
    assert trie.nodes == (TrieNode((), (1, 2)), TrieNode((1,), (4, 5)))
    assert trie.paths.tolist() == [[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]]


def test_a_common_prefix_of_all_labels_is_skipped():
    trie = build((1, 4, END), (1, 5, END))
    assert trie.nodes == (TrieNode((1,), (4, 5)),)


def test_a_label_that_is_a_prefix_of_another_competes_by_its_terminator():
    trie = build((1, END), (1, 5, END))
    assert trie.nodes == (TrieNode((1,), (END, 5)),)
    assert np.array_equal(trie.paths, np.eye(2))


def test_nodes_come_root_most_first():
    trie = build((1, 2, 3, END), (1, 2, 4, END), (1, 5, END), (6, END))
    assert [node.path for node in trie.nodes] == [(), (1,), (1, 2)]


def test_a_label_probability_is_the_product_along_its_path():
    trie = build((1, 4, END), (1, 5, END), (2, END))
    choices = np.log([0.6, 0.4, 0.25, 0.75])
    assert np.allclose(np.exp(trie.log_probs(choices)), [0.6 * 0.25, 0.6 * 0.75, 0.4], rtol=1e-12)


def test_a_batch_is_scored_as_its_rows():
    trie = build((1, 4, END), (1, 5, END), (2, END))
    batch = np.stack([random_choices(trie, seed) for seed in range(5)])
    assert np.array_equal(trie.log_probs(batch), np.stack([trie.log_probs(row) for row in batch]))


@given(tokens=label_sets, seed=st.integers(0, 1000))
def test_probabilities_sum_to_1(tokens, seed):
    trie = build(*tokens)
    assert np.exp(trie.log_probs(random_choices(trie, seed))).sum() == pytest.approx(1, abs=1e-12)


@given(tokens=label_sets, seed=st.integers(0, 1000))
def test_each_probability_is_that_of_walking_the_trie(tokens, seed):
    trie = build(*tokens)
    choices = random_choices(trie, seed)
    scores = dict(
        zip([(*n.path, child) for n in trie.nodes for child in n.children], choices, strict=True)
    )
    walked = [
        sum(scores.get(sequence[: depth + 1], 0.0) for depth in range(len(sequence)))
        for sequence in tokens
    ]
    assert trie.log_probs(choices) == pytest.approx(walked, abs=1e-12)


@given(tokens=label_sets)
def test_every_node_branches(tokens):
    assert all(len(set(node.children)) > 1 for node in build(*tokens).nodes)


def test_labels_with_the_same_tokens_are_refused():
    with pytest.raises(PromptError) as caught:
        LabelTrie.build(["Good", "good", "bad"], [(1, END), (1, END), (2, END)])
    assert str(caught.value) == (
        f"labels 'Good' and 'good' have the same tokens [1, {END}]; give one of them another "
        "verbalization"
    )


@pytest.mark.parametrize("tokens", [[(1, END), (1, END, 2, END)], [(1, END, 2, END), (1, END)]])
def test_a_label_that_continues_past_the_end_of_another_is_refused(tokens):
    """With separator ', ' the labels 'yes' and 'yes, but' cannot be told apart at the comma."""
    with pytest.raises(PromptError, match="another verbalization"):
        build(*tokens)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_labels_are_refused(count):
    with pytest.raises(PromptError, match="a task needs at least two labels, got "):
        build(*[(1, END)] * count)
