"""Where training starts: attention heads set by hand, so the first step is not noise.

Three kinds of head, all free to change in training:
- averaging (layer 0): the mean of the recent text's embeddings, rare words weighing more, by itself
  a fair text vector;
- previous token (layer 0): the embedding of the token before, written where embeddings hold little;
- lookup (layer 2): attends where the text average is alike and the token before was a colon, that
  is to the labels of similar examples in the prompt, and copies what stands there.

They lean on the embeddings' last two dimensions, log frequency and a constant (embeddings.py), and
on rotary embeddings: a pair of dimensions (i, i + 32) turns by 10000 ** (-i / 32) a position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

HEAD = 64
HALF = HEAD // 2
AVERAGING_HEADS = 3
RARITY = 0.77  # attention falls by about 1.2 per standard deviation of log frequency
RECENT_PAIRS, RECENT = (10, 12, 14, 16, 18), 0.55  # their cosines add up to a peak at distance 0
PREVIOUS_PAIRS, PREVIOUS = range(12), 1.5  # in phase only at distance 1
LOOKUP_LAYER, LOOKUP_PAIRS, LOOKUP = 2, range(22, 32), 1.0  # pairs too slow to turn in a prompt
LABEL_PAIR, LABEL = 21, 1.5
LOGIT_SCALE = 0.4  # of the final norm: the first predictions are not overconfident


@torch.no_grad()
def start_from_averages(layers: list[LlamaDecoderLayer], final_norm: Tensor, colon: Tensor) -> None:
    """Set the heads; `colon` [width] is the embedding of ":"."""
    first, width = layers[0].self_attn, len(colon)
    torch.nn.init.eye_(first.v_proj.weight)
    torch.nn.init.eye_(first.o_proj.weight)
    first.o_proj.weight *= 0.5
    for head in range(AVERAGING_HEADS):
        _average(first, head * HEAD, width)
    _previous_token(first, AVERAGING_HEADS * HEAD, width)
    _lookup(layers[LOOKUP_LAYER].self_attn, colon, width)
    final_norm.fill_(LOGIT_SCALE)


def _average(attention: LlamaAttention, row: int, width: int) -> None:
    frequency, constant = width - 2, width - 1
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[row + HALF - 1, constant] = RARITY
    key[row + HALF - 1, frequency] = -RARITY
    for pair in RECENT_PAIRS:
        query[row + pair, constant] = key[row + pair, constant] = RECENT


def _previous_token(attention: LlamaAttention, row: int, width: int) -> None:
    constant = width - 1
    for pair in PREVIOUS_PAIRS:
        angle = 10000 ** (-pair / HALF)
        attention.q_proj.weight[row + pair, constant] = PREVIOUS * math.cos(angle)
        attention.q_proj.weight[row + pair + HALF, constant] = -PREVIOUS * math.sin(angle)
        attention.k_proj.weight[row + pair, constant] = PREVIOUS
    attention.v_proj.weight[row:] = torch.eye(HEAD, width)
    attention.o_proj.weight[:, row:] = 0
    attention.o_proj.weight[_spare(width), row:] = torch.eye(HEAD)


def _lookup(attention: LlamaAttention, colon: Tensor, width: int) -> None:
    query, key = attention.q_proj.weight, attention.k_proj.weight
    for i, pair in enumerate(LOOKUP_PAIRS):
        for row, dim in ((pair, 2 * i), (pair + HALF, 2 * i + 1)):
            query[row, dim] = key[row, dim] = LOOKUP
    query[LABEL_PAIR, width - 1] = LABEL
    key[LABEL_PAIR, _spare(width)] = LABEL * colon[:HEAD] / colon[:HEAD].norm()
    attention.v_proj.weight[:HEAD] = torch.eye(HEAD, width)
    attention.o_proj.weight[:, :HEAD] = 0.5 * torch.eye(width, HEAD)


@torch.no_grad()
def scale_lookup(layers: list[LlamaDecoderLayer], share: float) -> None:
    """Turn down a trained lookup: one that learnt from easy episodes trusts likeness too much."""
    layers[LOOKUP_LAYER].self_attn.o_proj.weight[:, :HEAD] *= share


def _spare(width: int) -> slice:
    """The embeddings' least principal components."""
    return slice(width - 2 - HEAD, width - 2)
