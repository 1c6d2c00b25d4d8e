"""Memory of fitting: what a pass saves for the backward pass and holds at its peak, against what is
counted from the config (`calibration.model.memory`).

Tiny random models of real architectures; every tensor that an operation makes is counted for as
long as it lives. Figures are bytes a padded token; those of a layer are a difference of two depths,
as the first layer saves less. The table at the end is counted alone.

    python -m bench.calibration_memory [--json FILE]
"""

import weakref
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from bench.common.report import options, report
from calibration.model.checkpointing import checkpointed
from calibration.model.hooked import HookedModel, Noise, injected
from calibration.model.loss import Decision, Target, label_loss
from calibration.model.memory import Footprint
from calibration.settings import MAX_BATCH_TOKENS
from ifedicl_serve.contract.injection import Injection

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TINY: dict[str, type[Any]] = {"LLaMA": LlamaConfig, "Qwen3": Qwen3Config}
DEPTHS = (4, 8)
SEQUENCES, LONGEST = 4, 64
SHAPES = {
    "1B": LlamaConfig(  # Llama-3.2-1B
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
    ),
    "8B": LlamaConfig(  # Llama-3-8B
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False,
    ),
    "14B": Qwen2Config(  # Qwen2.5-14B
        vocab_size=152_064, hidden_size=5120, intermediate_size=13_824, num_hidden_layers=48,
        num_attention_heads=40, num_key_value_heads=8, tie_word_embeddings=False,
    ),
    "70B": LlamaConfig(  # Llama-3-70B
        vocab_size=128_256, hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80,
        num_attention_heads=64, num_key_value_heads=8, tie_word_embeddings=False,
    ),
}  # fmt: skip


class Meter(TorchDispatchMode):
    """Bytes of all tensors that operations made since, as long as they live (`live`), and the most
    that there were at once (`peak`); those of `known` tensors do not count."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class Measured(NamedTuple):
    """Bytes a token: saved when the backward pass begins, and the most that there were at once."""

    saved: float
    peak: float


def tiny(config: type[Any], layers: int) -> Any:
    """A small shape with queries, keys, MLP and hidden states of different widths."""
    return config(
        vocab_size=256, hidden_size=256, intermediate_size=704, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=2, head_dim=48,
    )  # fmt: skip


def measured(config: Any, dtype: torch.dtype, checkpointing: bool) -> Measured:
    """A pass of the loss of a label, adapted at every channel of every site, and back."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).to(dtype)
    model = HookedModel(network, None)
    ids = torch.randint(1, 256, (SEQUENCES, LONGEST)).tolist()
    targets = [Target(row, 0, [Decision(LONGEST - 1, (3, 4), 0)]) for row in ids]
    shape = (model.num_layers, 2, model.hidden_size)
    injection = Injection(torch.ones(shape).requires_grad_(), torch.zeros(shape).requires_grad_())
    mask = torch.ones(shape[:2], dtype=torch.bool)
    noise = Noise(1e-3, torch.Generator().manual_seed(0))
    known = [*network.parameters(), *network.buffers()]
    with injected(model, injection, mask, "all", noise), Meter(known) as meter:
        if checkpointing:
            with checkpointed(model.layers, noise.generator):
                saved = _there_and_back(model, targets, injection, meter)
        else:
            saved = _there_and_back(model, targets, injection, meter)
    tokens = SEQUENCES * LONGEST
    return Measured(saved / tokens, meter.peak / tokens)


def _there_and_back(
    model: HookedModel, targets: list[Target], injection: Injection, meter: Meter
) -> int:
    loss = label_loss(model, targets)
    saved = meter.live
    torch.autograd.grad(loss, [injection.scale, injection.shift])
    return saved


def compared(name: str, dtype: str, checkpointing: bool) -> dict[str, Any]:
    """What was measured and counted of an architecture."""
    shallow, deep = (
        measured(tiny(TINY[name], layers), DTYPES[dtype], checkpointing) for layers in DEPTHS
    )
    counted = Footprint.of(tiny(TINY[name], DEPTHS[1]), DTYPES[dtype])
    return {
        "architecture": name,
        "dtype": dtype,
        "checkpointing": checkpointing,
        "layer_saves": round((deep.saved - shallow.saved) / (DEPTHS[1] - DEPTHS[0]), 1),
        "layer_saves_counted": counted.input if checkpointing else counted.saved,
        "peak": round(deep.peak, 1),
        "peak_counted": counted.activations(1, checkpointing),
    }


def by_size(dtype: torch.dtype = torch.bfloat16) -> dict[str, list[str]]:
    """Of every shape: weights, activations of the default batch without and with checkpointing."""
    rows = {}
    for size, config in SHAPES.items():
        footprint = Footprint.of(config, dtype)
        plain, less = (footprint.activations(MAX_BATCH_TOKENS, on) for on in (False, True))
        rows[size] = [f"{one / 2**30:.1f} GiB" for one in (footprint.weights, plain, less)]
    return rows


def main() -> None:
    """Command line."""
    args = options(__doc__).parse_args()
    rows = [
        compared(name, dtype, checkpointing)
        for name in TINY
        for dtype in DTYPES
        for checkpointing in (False, True)
    ]
    table = Table(*rows[0], title="bytes a padded token")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console = Console(width=140)
    console.print(table)
    sizes = by_size()
    table = Table("bfloat16", "weights", "activations", "checkpointed", title="counted")
    for size, figures in sizes.items():
        table.add_row(size, *figures)
    console.print(table)
    off = [row["layer_saves"] / row["layer_saves_counted"] for row in rows]
    peaks = [row["peak"] / row["peak_counted"] for row in rows]
    llama = {
        (row["dtype"], row["checkpointing"]): row["peak"]
        for row in rows
        if row["architecture"] == "LLaMA"
    }
    headline = {
        "saved_measured_over_counted": [round(min(off), 3), round(max(off), 3)],
        "peak_measured_over_counted": [round(min(peaks), 3), round(max(peaks), 3)],
        "peak_checkpointed_over_plain": {
            dtype: round(llama[dtype, True] / llama[dtype, False], 3) for dtype in DTYPES
        },
    }
    setting = {"depths": DEPTHS, "sequences": SEQUENCES, "longest": LONGEST}
    report(args.json, {"headline": headline, "setting": setting, "rows": rows, "sizes": sizes})


if __name__ == "__main__":
    main()
