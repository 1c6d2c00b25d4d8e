"""Label log-probabilities on the hooked model: the reference that serving must agree with.

One function for every variant: zero-shot and few-shot differ in the prompts, adapted in the
hooks that are open while it runs.
"""

from collections.abc import Sequence

import numpy as np
import torch

from calibration.model.batches import by_length
from calibration.model.hooked import HookedModel, last_tokens
from ifedicl_serve.contract.labels import LabelTrie
from ifedicl_serve.contract.tokens import Prompt, token_ids
from ifedicl_serve.fitting.features import Features, FloatArray


@torch.inference_mode()
def label_features(
    model: HookedModel, prompts: Sequence[Prompt], trie: LabelTrie, tail: int = 0
) -> Features:
    """What the model says of every prompt; its last `tail` tokens are the prompt's tail."""
    queries = [token_ids(model.tokenizer, prompt) for prompt in prompts]
    starts = [len(ids) - tail for ids in queries]
    scored = [
        _scored(model, [ids + list(node.path) for ids in queries], starts, node.children)
        for node in trie.nodes
    ]
    choices = np.concatenate([log_probs for log_probs, _ in scored], axis=1)
    return Features(trie.log_probs(choices), scored[0][1])


def label_log_probs(
    model: HookedModel, prompts: Sequence[Prompt], trie: LabelTrie, tail: int = 0
) -> FloatArray:
    """Log-probabilities [prompts, labels]; each row's exponentials sum to 1."""
    return label_features(model, prompts, trie, tail).log_probs


def _scored(
    model: HookedModel,
    sequences: Sequence[list[int]],
    starts: Sequence[int],
    tokens: Sequence[int],
) -> tuple[FloatArray, FloatArray]:
    """Log-softmax [sequences, tokens] among `tokens` as the next token, and the hidden states
    [sequences, hidden] it is made of."""
    scores = np.empty((len(sequences), len(tokens)), dtype=np.float32)
    hidden = np.empty((len(sequences), model.hidden_size), dtype=np.float32)
    for positions in by_length([len(ids) for ids in sequences], model.max_batch_tokens):
        batch = [sequences[position] for position in positions]
        last = last_tokens(model.hidden(batch, [starts[position] for position in positions]), batch)
        scores[positions] = model.logits(last, tokens).log_softmax(dim=-1).cpu().numpy()
        hidden[positions] = last.float().cpu().numpy()
    return scores, hidden
