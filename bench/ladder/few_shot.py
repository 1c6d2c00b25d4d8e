"""Few-shot prompts of many texts with the same demonstrations, which are read once.

`Evaluation.few_shot` reads them again for every text: 16 of them before 500 texts take as long as
everything else that a cell measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from os.path import commonprefix
from typing import Any

import numpy as np
import torch

from calibration.data.demonstrations import choose_demonstrations
from calibration.data.examples import Example
from calibration.model.batches import by_length
from calibration.model.hooked import HookedModel, last_tokens
from calibration.stages.evaluate import Evaluation
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.fitting.features import FloatArray

TOKENS = 1024  # padded, a pass: each sees all demonstrations


@torch.inference_mode()
def few_shot(evaluation: Evaluation, train: Sequence[Example], shots: int, seed: int) -> FloatArray:
    """Label log-probabilities [rows, labels] of `Evaluation.few_shot`."""
    model, task = evaluation.model, evaluation.task
    demonstrations = choose_demonstrations(train, shots, seed)
    prompts = [
        token_ids(model.tokenizer, task.few_shot_prompt(demonstrations, text))
        for text in evaluation.texts
    ]
    shared = commonprefix(prompts)  # of any sequences, whatever its module says
    read = model.network.model(input_ids=torch.tensor([shared]), use_cache=True).past_key_values
    rest = [ids[len(shared) :] for ids in prompts]
    choices = [
        _scored(model, read, [ids + list(node.path) for ids in rest], node.children)
        for node in evaluation.trie.nodes
    ]
    return evaluation.trie.log_probs(np.concatenate(choices, axis=1))


def _scored(
    model: HookedModel, read: Any, sequences: Sequence[list[int]], tokens: Sequence[int]
) -> FloatArray:
    """Log-softmax [sequences, tokens] among `tokens` behind what was read."""
    scores = np.empty((len(sequences), len(tokens)), dtype=np.float32)
    for positions in by_length([len(ids) for ids in sequences], TOKENS):
        batch = [sequences[position] for position in positions]
        longest = max(map(len, batch))
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in batch])
        past = deepcopy(read)
        past.batch_repeat_interleave(len(batch))
        hidden = model.network.model(input_ids=padded, past_key_values=past).last_hidden_state
        logits = model.logits(last_tokens(hidden, batch), tokens)
        scores[positions] = logits.log_softmax(dim=-1).numpy()
    return scores
