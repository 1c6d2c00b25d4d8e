"""Label log-probabilities on the hooked model: the reference that serving must agree with.

One function for every variant: zero-shot and few-shot differ in the prompts, adapted in the
hooks that are open while it runs. What all prompts begin with, such as demonstrations, is read once
if it is long.
"""

from collections.abc import Sequence
from os.path import commonprefix

import numpy as np
import torch

from calibration.model.batches import by_length
from calibration.model.hooked import NOTHING, Beginning, HookedModel, last_tokens
from ifedicl_serve.contract.labels import LabelTrie
from ifedicl_serve.contract.tokens import Prompt, token_ids
from ifedicl_serve.fitting.features import Features, FloatArray

LONG = 64  # tokens from which on a pass of their own is worth it


@torch.inference_mode()
def label_features(
    model: HookedModel, prompts: Sequence[Prompt], trie: LabelTrie, tail: int = 0
) -> Features:
    """What the model says of every prompt; its last `tail` tokens are the prompt's tail."""
    queries = [token_ids(model.tokenizer, prompt) for prompt in prompts]
    shared = _shared(queries, tail)
    beginning = model.begin(shared) if shared else NOTHING
    rest = [ids[len(shared) :] for ids in queries]
    starts = [len(ids) - tail for ids in rest]
    scored = [
        _scored(model, beginning, [ids + list(node.path) for ids in rest], starts, node.children)
        for node in trie.nodes
    ]
    choices = np.concatenate([log_probs for log_probs, _ in scored], axis=1)
    return Features(trie.log_probs(choices), scored[0][1])


def label_log_probs(
    model: HookedModel, prompts: Sequence[Prompt], trie: LabelTrie, tail: int = 0
) -> FloatArray:
    """Log-probabilities [prompts, labels]; each row's exponentials sum to 1."""
    return label_features(model, prompts, trie, tail).log_probs


def _shared(queries: Sequence[list[int]], tail: int) -> list[int]:
    """What several prompts begin with, if it is worth a pass of its own; never a token of a tail,
    nor all of a prompt."""
    if len(queries) < 2:
        return []
    room = min(map(len, queries)) - max(tail, 1)
    shared = list(
        commonprefix(queries)[: max(room, 0)]
    )  # of any sequences, whatever its module says
    return shared if len(shared) >= LONG else []


def _scored(
    model: HookedModel,
    beginning: Beginning,
    sequences: Sequence[list[int]],
    starts: Sequence[int],
    tokens: Sequence[int],
) -> tuple[FloatArray, FloatArray]:
    """Log-softmax [sequences, tokens] among `tokens` as the token next to the beginning and a
    sequence, and the hidden states [sequences, hidden] it is made of."""
    scores = np.empty((len(sequences), len(tokens)), dtype=np.float32)
    hidden = np.empty((len(sequences), model.hidden_size), dtype=np.float32)
    lengths = [len(beginning) + len(ids) for ids in sequences]
    for positions in by_length(lengths, model.max_batch_tokens):
        batch = [sequences[position] for position in positions]
        tails = [starts[position] for position in positions]
        last = last_tokens(model.hidden(batch, tails, beginning), batch)
        scores[positions] = model.logits(last, tokens).log_softmax(dim=-1).cpu().numpy()
        hidden[positions] = last.float().cpu().numpy()
    return scores, hidden
