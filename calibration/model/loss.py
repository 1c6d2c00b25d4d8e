"""The negative log-likelihood of a text's label, and the tokens it is computed from.

Two losses: `restricted` among the task's labels, through the trie that serving scores with;
`vocabulary` among all tokens (the paper's perplexity). A label's tokens are scored in one pass,
because attention is causal.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.settings import Loss
from calibration.task import TaskDefinition
from ifedicl_serve.contract.labels import LabelTrie, Tokens
from ifedicl_serve.contract.tokens import token_ids


class Decision(NamedTuple):
    """The token to predict at a position, among `choices` (None: the whole vocabulary)."""

    position: int
    choices: Tokens | None
    target: int


class Target(NamedTuple):
    """Input tokens, where the prompt's tail begins, and the decisions whose log-probabilities add
    up to the label's."""

    ids: list[int]
    start: int
    decisions: list[Decision]


def label_targets(
    model: HookedModel, task: TaskDefinition, examples: Sequence[Example], loss: Loss
) -> list[Target]:
    """Each example as tokens and the decisions that make up its label under `loss`."""
    labels, tail = task.label_tokens(model.tokenizer), task.tail_tokens(model.tokenizer)
    trie = LabelTrie.build(task.verbalizations, labels)
    decide = {
        "restricted": [_trie_decisions(trie, tokens) for tokens in labels],
        "vocabulary": [_vocabulary_decisions(tokens) for tokens in labels],
    }[loss]
    targets = []
    for example, label in zip(examples, task.indices(examples), strict=True):
        prompt = token_ids(model.tokenizer, task.prompt.render(example.text))
        decisions = [
            decision._replace(position=len(prompt) - 1 + decision.position)
            for decision in decide[label]
        ]
        ids = prompt + list(labels[label])
        ids = ids[: decisions[-1].position + 1]
        targets.append(Target(ids, len(prompt) - tail, decisions))
    return targets


def _trie_decisions(trie: LabelTrie, label: Tokens) -> list[Decision]:
    """Decisions at the branching nodes on the label's path, positions counted from the prompt."""
    return [
        Decision(len(node.path), node.children, node.children.index(label[len(node.path)]))
        for node in trie.nodes
        if label[: len(node.path)] == node.path
    ]


def _vocabulary_decisions(label: Tokens) -> list[Decision]:
    """One decision per label token; the terminator after it is not part of the label."""
    return [Decision(position, None, token) for position, token in enumerate(label[:-1])]


def label_loss(model: HookedModel, targets: Sequence[Target]) -> Tensor:
    """Mean negative log-likelihood of the targets' labels, a scalar."""
    hidden = model.hidden([target.ids for target in targets], [target.start for target in targets])
    groups: dict[Tokens | None, list[tuple[int, int, int]]] = defaultdict(list)
    for row, target in enumerate(targets):
        for position, choices, token in target.decisions:
            groups[choices].append((row, position, token))
    total = torch.zeros((), device=hidden.device)
    for choices, decisions in groups.items():
        rows, positions, tokens = torch.tensor(decisions, device=hidden.device).T
        logits = model.logits(hidden[rows, positions], choices)
        total = total + torch.nn.functional.cross_entropy(logits, tokens, reduction="sum")
    return total / len(targets)
