"""The injection at a layer's two sites, inside vLLM's own modules.

A norm that some decoders put behind a site (Gemma, OLMo 2) comes after the injection, as it does in
calibration. Parameter names stay, weights load unchanged, and torch.compile fuses the multiply-add.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import Library
from vllm.utils.torch_utils import direct_register_custom_op

from ifedicl_serve.contract.injection import inject
from ifedicl_serve.plugin.slots import SlotTables


def _materialize(h: Tensor) -> None:
    """Do nothing, where the compiler must assume something: `h` is written out first.

    Otherwise inductor fuses the injection into the next RMSNorm, whose sum then runs in
    another order: an unadapted token would differ from vLLM's own in its last bit.
    """


# vLLM's way: `torch.library.custom_op` takes 60 microseconds a call, a tenth of them here.
LIBRARY = Library("ifedicl", "FRAGMENT")
direct_register_custom_op(
    "materialize",
    _materialize,
    mutates_args=["h"],
    fake_impl=_materialize,
    target_lib=LIBRARY,
)


def adapt_sites(layers: nn.ModuleList, slots: SlotTables) -> None:
    """Turn the two sites of every layer on this pipeline rank into adapted ones, by their class.

    Upstream: a decoder layer calls `self_attn` and `mlp` and adds what they return to the residual
    stream (vllm/model_executor/models). The Transformers backend binds a rewritten `forward` to
    some instances, which hides their class's.
    Why: there is no hook behind a module that torch.compile traces and that every decoder has; to
    copy twenty decoders would be to maintain them.
    Delete when vLLM lets a plugin add an operation to the output of a decoder's submodule.
    """
    for position, layer in enumerate(slots.layers):
        sites: tuple[Any, Any] = (layers[layer].self_attn, layers[layer].mlp)
        for site, module in enumerate(sites):
            if hasattr(type(module), "injects_tasks"):
                continue
            module.register_buffer("task_scale", slots.scale[position, site], persistent=False)
            module.register_buffer("task_shift", slots.shift[position, site], persistent=False)
            module.register_buffer("token_slots", slots.token_slots, persistent=False)
            bound, base = module.__dict__.pop("forward", None), type(module)
            forward = bound.__func__ if bound else base.forward
            module.__class__ = _adapted_class(base, forward)  # type: ignore[arg-type]


@cache
def _adapted_class(base: type[nn.Module], forward: Callable[..., Any]) -> type[nn.Module]:
    """A subclass of a site's class that injects into what its `forward` returns."""

    class Adapted(base):  # type: ignore[misc, valid-type]
        injects_tasks = True

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = forward(self, *args, **kwargs)
            if isinstance(output, tuple):  # a Transformers attention: (output, weights)
                return _adapted(self, output[0]), *output[1:]
            return _adapted(self, output)

    Adapted.__name__ = Adapted.__qualname__ = f"TaskAdapted{base.__name__}"
    return Adapted


def _adapted(site: Any, h: Tensor) -> Tensor:
    """The site's output [..., tokens, hidden], each token's task injected."""
    slots = site.token_slots[: h.shape[-2]]
    h = inject(h, site.task_scale[slots], site.task_shift[slots])
    torch.ops.ifedicl.materialize(h)
    return h
