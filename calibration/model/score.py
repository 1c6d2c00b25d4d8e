"""Label log-probabilities on the hooked model: the reference that serving must agree with.

One function for every variant: zero-shot and few-shot differ in the prompts, adapted in the
hooks that are open while it runs.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from calibration.model.batches import by_length
from calibration.model.hooked import HookedModel, last_tokens
from ifedicl_serve.contract.labels import LabelTrie
from ifedicl_serve.contract.prompt import token_ids

FloatArray = npt.NDArray[np.float32]


@torch.inference_mode()
def label_log_probs(model: HookedModel, prompts: Sequence[str], trie: LabelTrie) -> FloatArray:
    """Log-probabilities [prompts, labels]; each row's exponentials sum to 1."""
    queries = [token_ids(model.tokenizer, prompt) for prompt in prompts]
    choices = []
    for node in trie.nodes:
        sequences = [ids + list(node.path) for ids in queries]
        choices.append(_choice_log_probs(model, sequences, node.children))
    return trie.log_probs(np.concatenate(choices, axis=1))


def _choice_log_probs(
    model: HookedModel, sequences: Sequence[list[int]], tokens: Sequence[int]
) -> FloatArray:
    """Log-softmax [sequences, tokens] among `tokens` as the next token."""
    scores = np.empty((len(sequences), len(tokens)), dtype=np.float32)
    for positions in by_length([len(ids) for ids in sequences]):
        batch = [sequences[position] for position in positions]
        logits = model.logits(last_tokens(model.hidden(batch), batch), tokens)
        scores[positions] = logits.log_softmax(dim=-1).cpu().numpy()
    return scores
