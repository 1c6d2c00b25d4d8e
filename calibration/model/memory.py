"""What fitting takes of a device's memory, counted from a model's config alone.

Weights are frozen, so a projection saves nothing of its input for the backward pass. A token of a
decoder layer saves, with b bytes a number, hidden states of width H, queries and keys of widths q
and k, and an MLP of width I:

    4 H              for every norm, which computes in float32
    4 H              for every site, whose injection does
    b (2 q + 2 k)    attention: queries, keys, values and what comes of them
    4 heads          its softmax
    3 b I            a gated MLP: what goes into its activation, what comes out, and the other half

That is LLaMA, Mistral, Qwen2 and 3 exactly (bench/calibration_memory.py); others are near.
"""

from dataclasses import dataclass
from typing import Any

import torch

from ifedicl_serve.contract.injection import SITES
from ifedicl_serve.errors import ModelError

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model's weights, and of one of its `layers` a token: what it saves for the
    backward pass, and its input, which is all that it saves if it is checkpointed; and of a task's
    scale and shift with their gradients."""

    weights: int
    layers: int
    saved: int
    input: int
    task: int

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype) -> "Footprint":
        """Of a model with this config, whose weights need not be there."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            network: Any = AutoModelForCausalLM.from_config(config)
        weights, layers = (
            sum(weight.numel() for weight in network.parameters()),
            network.model.layers,
        )
        return cls(
            weights=weights * dtype.itemsize,
            layers=len(layers),
            saved=_saved(config, layers[0], dtype.itemsize),
            input=config.hidden_size * dtype.itemsize,
            task=4 * FLOAT32_BYTES * len(layers) * len(SITES) * config.hidden_size,
        )

    def activations(self, tokens: int, checkpointing: bool) -> int:
        """Most that a forward and backward pass over so many padded tokens holds at once: what its
        layers saved, and half as much as one of them for gradients; of checkpointed layers their
        inputs, and one that runs again."""
        kept = self.layers * self.input + self.saved if checkpointing else self.layers * self.saved
        return tokens * (kept + self.saved // 2)

    def total(self, tokens: int, checkpointing: bool) -> int:
        """The same with weights and task."""
        return self.weights + self.task + self.activations(tokens, checkpointing)


def _saved(config: Any, layer: torch.nn.Module, item: int) -> int:
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    queries, keys = heads * head, config.num_key_value_heads * head
    widths = {"q_norm": queries, "k_norm": keys}
    names = (name.rpartition(".")[2] for name, _ in layer.named_modules())
    norms = [widths.get(name, config.hidden_size) for name in names if "norm" in name]
    in_float32 = sum(norms) + len(SITES) * config.hidden_size + heads
    return FLOAT32_BYTES * in_float32 + item * (2 * queries + 2 * keys + 3 * _mlp_width(config))


def _mlp_width(config: Any) -> int:
    """Of all that a token goes through: of a mixture its experts, and the one that all share."""
    width = getattr(config, "moe_intermediate_size", config.intermediate_size)
    shared = getattr(config, "shared_expert_intermediate_size", 0)
    return width * getattr(config, "num_experts_per_tok", 1) + shared


def available(device: str, spread: bool) -> int:
    """Bytes that are free on a device, or (`spread`) on all GPUs together. Raises ModelError."""
    from accelerate.utils import get_max_memory

    free = get_max_memory()
    gpus = [size for key, size in free.items() if isinstance(key, int)]
    if spread and gpus:
        return sum(gpus)
    kind = torch.device(device)
    if kind.type == "cpu":
        return free["cpu"]
    if kind.type != "cuda" or (kind.index or 0) >= len(gpus):
        raise ModelError(f"device {device} is not there ({len(gpus)} GPUs are); give --device auto")
    return gpus[kind.index or 0]


def readable(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
