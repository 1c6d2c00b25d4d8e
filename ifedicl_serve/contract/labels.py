"""The label trie: probabilities over labels of one or several tokens that sum to 1.

A label's probability is the product, over the branching nodes on its path, of the softmax
among that node's children. Each branching node is scored by one forward pass over
prompt + path; a node with a single child needs none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ifedicl_serve.errors import PromptError

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class TrieNode:
    """A branching node: the label tokens that lead to it, and the tokens it chooses among."""

    path: Tokens
    children: Tokens


@dataclass(frozen=True)
class LabelTrie:
    """Branching nodes, the root-most first, and the map from their scores to labels.

    `paths` is [labels, choices] of 0 and 1, where choices concatenates the nodes' children:
    label log-probabilities are ``choices @ paths.T``. With no shared first token there is one
    node and `paths` is a permutation.
    """

    labels: tuple[str, ...]
    nodes: tuple[TrieNode, ...]
    paths: npt.NDArray[np.float32]

    @classmethod
    def build(cls, labels: Sequence[str], tokens: Sequence[Tokens]) -> "LabelTrie":
        """Arrange labels by their tokens, each ended by a terminator token.

        Raises PromptError for fewer than two labels, two labels with the same tokens, or a
        label that continues past the terminator of another.
        """
        if len(labels) < 2:
            raise PromptError(f"a task needs at least two labels, got {list(labels)}")
        _refuse_collisions(labels, tokens)
        children: dict[Tokens, list[int]] = {}
        for sequence in tokens:
            for depth, token in enumerate(sequence):
                siblings = children.setdefault(sequence[:depth], [])
                if token not in siblings:
                    siblings.append(token)
        nodes = tuple(
            TrieNode(path, tuple(siblings))
            for path, siblings in sorted(children.items(), key=lambda item: len(item[0]))
            if len(siblings) > 1
        )
        columns = [node.path + (child,) for node in nodes for child in node.children]
        paths = np.array(
            [[sequence[: len(column)] == column for column in columns] for sequence in tokens],
            dtype=np.float32,
        )
        return cls(tuple(labels), nodes, paths)

    def log_probs(self, choices: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Label log-probabilities [..., labels] from the nodes' log-softmaxes [..., choices]."""
        return choices @ self.paths.T


def _refuse_collisions(labels: Sequence[str], tokens: Sequence[Tokens]) -> None:
    seen: dict[Tokens, str] = {}
    for label, sequence in zip(labels, tokens, strict=True):
        if sequence in seen:
            raise PromptError(
                f"labels {seen[sequence]!r} and {label!r} have the same tokens {list(sequence)}; "
                "give one of them another verbalization"
            )
        seen[sequence] = label
    for label, sequence in zip(labels, tokens, strict=True):
        for length in range(1, len(sequence)):
            if sequence[:length] in seen:
                raise PromptError(
                    f"label {label!r} continues past the end of {seen[sequence[:length]]!r} with "
                    "the separator's first token; give one of them another verbalization, or the "
                    "task another separator"
                )
