"""vLLM's own LLaMA and Qwen models with the injection at their two sites, and a label pooler.

Nothing of vLLM's models is copied: after construction each layer's attention and MLP module
gets a subclass of its own class whose forward applies the formula to `super().forward(...)`.
Parameter names stay, weights load unchanged, and torch.compile fuses the multiply-add.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.layers.pooler.seqwise import pooler_for_embed
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from ifedicl_serve.errors import ModelError
from ifedicl_serve.identity import ModelIdentity
from ifedicl_serve.injection import inject
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.plugin.label_pooler import LabelPooler, TaskPooler
from ifedicl_serve.plugin.slots import SlotTables


@torch.library.custom_op("ifedicl::materialize", mutates_args=("h",))
def materialize(h: Tensor) -> None:
    """Do nothing, where the compiler must assume something: `h` is written out first.

    Otherwise inductor fuses the injection into the next RMSNorm, whose sum then runs in
    another order: an unadapted token would differ from vLLM's own in its last bit.
    """


class TaskAdapted:
    """Mixin for a decoder-only `...ForCausalLM`: per-token injection and label scoring."""

    is_pooling_model: ClassVar[Literal[True]] = True

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        if vllm_config.parallel_config.use_ubatching:
            raise ModelError(
                "micro-batching (--enable-dbo) splits a batch after its tokens were given their "
                "task; serve without it"
            )
        self.task_slots = _slot_tables(self, vllm_config)
        _adapt_sites(self.model.layers, self.task_slots)  # type: ignore[attr-defined]
        self.pooler = TaskPooler(
            {
                "classify": LabelPooler(self.label_logits, self.task_slots.holds),
                "embed": pooler_for_embed(vllm_config.model_config.pooler_config),
            }
        )

    def label_logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Logits [requests, tokens] in float32 of these tokens alone.

        `hidden` [requests, hidden] after the final norm, `token_ids` [tokens]. Under tensor
        parallelism each rank scores the rows it owns and the ranks' logits are summed. A token
        outside the vocabulary gets NaN.
        """
        lm_head: Any = self.lm_head  # type: ignore[attr-defined]
        if not isinstance(lm_head.quant_method, UnquantizedEmbeddingMethod):
            raise ModelError(
                f"lm_head is quantised by {type(lm_head.quant_method).__name__}; label scoring "
                "reads its rows, so serve a checkpoint with an unquantised lm_head"
            )
        shard = lm_head.shard_indices
        start, end = shard.org_vocab_start_index, shard.org_vocab_end_index
        owned = (token_ids >= start) & (token_ids < end)
        rows = lm_head.weight[torch.where(owned, token_ids - start, 0)]
        logits = hidden.float() @ rows.float().T * self.logits_processor.scale  # type: ignore[attr-defined]
        logits = tensor_model_parallel_all_reduce(logits * owned)
        return logits.masked_fill(token_ids >= lm_head.org_vocab_size, torch.nan)

    @classmethod
    def get_model_state_cls(cls) -> type[Any]:
        """vLLM's V2 model runner asks the model how to prepare its inputs."""
        from ifedicl_serve.plugin.runner_v2 import TaskModelState

        return TaskModelState


class IFedICLLlamaForCausalLM(TaskAdapted, LlamaForCausalLM):
    """LLaMA (and architectures vLLM serves as LLaMA) with tasks."""


class IFedICLQwen2ForCausalLM(TaskAdapted, Qwen2ForCausalLM):
    """Qwen2 and Qwen2.5 with tasks."""


class IFedICLQwen3ForCausalLM(TaskAdapted, Qwen3ForCausalLM):
    """Qwen3 with tasks."""


def _slot_tables(model: Any, vllm_config: VllmConfig) -> SlotTables:
    model_config, scheduler = vllm_config.model_config, vllm_config.scheduler_config
    tasks = TaskConfig.of(vllm_config)
    return SlotTables(
        tasks_dir=tasks.tasks_dir,
        model=ModelIdentity.of(model_config.model),
        layers=range(model.model.start_layer, model.model.end_layer),
        hidden_size=model_config.get_hidden_size(),
        num_slots=tasks.num_slots(scheduler.max_num_seqs),
        max_tokens=scheduler.max_num_batched_tokens,
        dtype=model_config.dtype,
        device=torch.get_default_device(),
    )


def _adapt_sites(layers: Iterable[nn.Module], slots: SlotTables) -> None:
    """Turn the two sites of every layer on this pipeline rank into adapted ones."""
    for position, layer in enumerate(list(layers)[slots.layers.start : slots.layers.stop]):
        sites: tuple[Any, Any] = (layer.self_attn, layer.mlp)
        for site, module in enumerate(sites):
            module.register_buffer("task_scale", slots.scale[position, site], persistent=False)
            module.register_buffer("task_shift", slots.shift[position, site], persistent=False)
            module.register_buffer("token_slots", slots.token_slots, persistent=False)
            module.__class__ = _adapted_class(type(module))  # type: ignore[arg-type]


@cache
def _adapted_class(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a site's class that injects into its output [tokens, hidden]."""

    class Adapted(base):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            h = super().forward(*args, **kwargs)
            slots = self.token_slots[: h.shape[0]]
            h = inject(h, self.task_scale[slots].unsqueeze(-1), self.task_shift[slots])
            torch.ops.ifedicl.materialize(h)
            return h

    Adapted.__name__ = Adapted.__qualname__ = f"TaskAdapted{base.__name__}"
    return Adapted
