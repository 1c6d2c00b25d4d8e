"""Stage 2, on a client: local AdamW steps on the coefficients alone, the model frozen.

Two losses, both the negative log-likelihood of a text's label: `restricted` among the task's
labels, through the trie that serving scores with; `vocabulary` among all tokens (the paper's
perplexity). A label's tokens are scored in one pass, because attention is causal.

Pure but for the model it runs: a client and round always draw the same batches and noise,
so a resumed run and a federated client get the same result.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from calibration.batches import shuffled
from calibration.data import Example
from calibration.hooked import HookedModel, Noise, injected
from calibration.settings import Loss, Settings
from calibration.task import TaskDefinition
from ifedicl_serve.errors import ModelError
from ifedicl_serve.injection import adapted_mask
from ifedicl_serve.labels import LabelTrie, Tokens
from ifedicl_serve.prompt import token_ids

OnStep = Callable[[int, float], None]
WARM_UP = 0.2  # part of all steps


class Decision(NamedTuple):
    """The token to predict at a position, among `choices` (None: the whole vocabulary)."""

    position: int
    choices: Tokens | None
    target: int


class Target(NamedTuple):
    """Input tokens and the decisions whose log-probabilities add up to the label's."""

    ids: list[int]
    decisions: list[Decision]


@dataclass(frozen=True)
class ClientUpdate:
    """A client's coefficients [layers, 2, 2] after its local steps, its number of examples, and
    the loss of each step."""

    coefficients: Tensor
    count: int
    losses: tuple[float, ...]


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
) -> ClientUpdate:
    """Fit the coefficients to a client's examples, with the global context vector injected."""
    targets = label_targets(model, task, examples, settings.loss)
    seed = derived_seed(settings.seed, client, round_index)
    noise = Noise(settings.noise, torch.Generator(model.device).manual_seed(seed))
    batches = shuffled(
        len(targets),
        settings.batch_size,
        settings.local_steps,
        torch.Generator().manual_seed(seed),
    )
    mask = adapted_mask(model.num_layers, settings.layers, settings.sites)
    trainable = coefficients[mask].clone().requires_grad_()  # [adapted sites, 2]
    optimizer = torch.optim.AdamW([trainable], weight_decay=settings.weight_decay)
    losses = []
    for step, positions in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate(settings, round_index, step)
        current = with_adapted(coefficients, mask, trainable)
        with injected(model, context_vector, current, mask, noise):
            loss = label_loss(model, [targets[position] for position in positions])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(_finite(loss.item(), client, round_index, step))
        on_step(step, losses[-1])
    fitted = with_adapted(coefficients, mask, trainable.detach())
    return ClientUpdate(fitted, len(examples), tuple(losses))


def with_adapted(coefficients: Tensor, mask: Tensor, adapted: Tensor) -> Tensor:
    """`coefficients` with the sites of `mask` replaced; the others stay exactly as they are."""
    replaced = coefficients.clone()
    replaced[mask] = adapted
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


def label_targets(
    model: HookedModel, task: TaskDefinition, examples: Sequence[Example], loss: Loss
) -> list[Target]:
    """Each example as tokens and the decisions that make up its label under `loss`."""
    labels = task.label_tokens(model.tokenizer)
    trie = task.trie(model.tokenizer)
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
        targets.append(Target(ids[: decisions[-1].position + 1], decisions))
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
    hidden = model.hidden([target.ids for target in targets])
    groups: dict[Tokens | None, list[tuple[int, int, int]]] = defaultdict(list)
    for row, target in enumerate(targets):
        for position, choices, token in target.decisions:
            groups[choices].append((row, position, token))
    total = torch.zeros((), device=model.device)
    for choices, decisions in groups.items():
        rows, positions, tokens = torch.tensor(decisions, device=model.device).T
        logits = model.logits(hidden[rows, positions], choices)
        total = total + torch.nn.functional.cross_entropy(logits, tokens, reduction="sum")
    return total / len(targets)


def _finite(loss: float, client: int, round_index: int, step: int) -> float:
    if not math.isfinite(loss):
        raise ModelError(
            f"the loss of client {client} became {loss} in round {round_index + 1}, step {step}; "
            "lower --lr or calibrate with --dtype fp32"
        )
    return loss
