"""vLLM's own decoders with the injection at their two sites, and a label pooler (or generating).

Nothing of vLLM's models is copied: after construction each layer's attention and MLP module
gets a subclass of its own class whose forward applies the formula to what its own returns.
Parameter names stay, weights load unchanged, and torch.compile fuses the multiply-add. A norm
that some decoders put behind a site (Gemma, OLMo 2) comes after the injection, as it does in
calibration. Which decoders, and under which names, `ifedicl_serve.plugin` says.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.library import Library
from vllm import ModelRegistry
from vllm.config import CompilationMode, VllmConfig
from vllm.distributed import get_pp_group, tensor_model_parallel_all_reduce
from vllm.distributed.utils import get_pp_indices
from vllm.model_executor.layers.pooler.seqwise import pooler_for_embed
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors
from vllm.utils.torch_utils import direct_register_custom_op

from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import inject
from ifedicl_serve.errors import ModelError
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.plugin.label_pooler import LabelPooler, TaskPooler
from ifedicl_serve.plugin.pipeline import fail_marked, mark_failed, with_marks
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
        _refuse_long_rope(vllm_config.model_config)
        _refuse_uncompiled_stages(vllm_config)
        _refuse_outside_kv(vllm_config)
        self.task_slots = _slot_tables(self, vllm_config)
        _adapt_sites(self.model.layers, self.task_slots)  # type: ignore[attr-defined]
        # vLLM then refuses a LoRA adapter of lm_head: label scoring reads the rows without it.
        self.embedding_modules = {
            name: use
            for name, use in getattr(self, "embedding_modules", {}).items()
            if name != "lm_head"
        }
        make_empty: Any = self.make_empty_intermediate_tensors  # type: ignore[has-type]
        self.make_empty_intermediate_tensors = with_marks(make_empty)
        if vllm_config.model_config.runner_type == "pooling":
            self.pooler = TaskPooler(
                {
                    "classify": LabelPooler(self.label_logits),
                    "embed": pooler_for_embed(vllm_config.model_config.pooler_config),
                }
            )
        else:
            # For `failures`: vLLM reports requests whose logits have NaN. Read after this.
            os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] = "1"

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """As vLLM's own; between pipeline stages, with the marks of tokens that failed."""
        token_slots = self.task_slots.token_slots
        if intermediate_tensors is not None:
            fail_marked(token_slots, intermediate_tensors)
        output = super().forward(  # type: ignore[misc]
            input_ids, positions, intermediate_tensors, inputs_embeds
        )
        if isinstance(output, IntermediateTensors):
            mark_failed(token_slots, output)
        return output

    def label_logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Logits [requests, tokens] in float32 of these tokens alone.

        `hidden` [requests, hidden] after the final norm, `token_ids` [tokens]. Under tensor
        parallelism each rank scores the rows it owns and the ranks' logits are summed. Capped
        and scaled as vLLM's `LogitsProcessor` does. A token outside the vocabulary gets NaN.
        """
        # Gemma 2 has no lm_head of its own
        head: Any = getattr(self, "lm_head", None) or self.model.embed_tokens  # type: ignore[attr-defined]
        if not isinstance(head.quant_method, UnquantizedEmbeddingMethod):
            raise ModelError(
                f"lm_head is quantised by {type(head.quant_method).__name__}; label scoring "
                "reads its rows, so serve a checkpoint with an unquantised lm_head"
            )
        shard = head.shard_indices
        start, end = shard.org_vocab_start_index, shard.org_vocab_end_index
        owned = (token_ids >= start) & (token_ids < end)
        rows = head.weight[torch.where(owned, token_ids - start, 0)]
        logits = hidden.float() @ rows.float().T
        logits = tensor_model_parallel_all_reduce(logits * owned)
        processor: Any = self.logits_processor  # type: ignore[attr-defined]
        if processor.soft_cap is not None:
            logits = torch.tanh(logits / processor.soft_cap) * processor.soft_cap
        return (logits * processor.scale).masked_fill(token_ids >= head.org_vocab_size, torch.nan)

    @classmethod
    def get_model_state_cls(cls) -> type[Any]:
        """vLLM's V2 model runner asks the model how to prepare its inputs."""
        from ifedicl_serve.plugin.runner_v2 import TaskModelState

        return TaskModelState


@cache
def __getattr__(name: str) -> type[nn.Module]:
    """The adapted class of that name: vLLM's own for the architecture, with tasks.

    Made when asked for, as this module would else import every model vLLM has for us.
    """
    for architecture, adapted in ADAPTED_ARCHITECTURES.items():
        if name == adapted:
            base = ModelRegistry.models[architecture].load_model_cls()
            return type(name, (TaskAdapted, base), {"__module__": __name__})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _refuse_long_rope(model_config: Any) -> None:
    """vLLM picks LongRoPE's factors by its longest possible prompt, calibration by the prompt."""
    rope = getattr(model_config.hf_text_config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings")
    if rope.get("rope_type") == "longrope" and model_config.max_model_len > original:
        raise ModelError(
            f"--max-model-len is {model_config.max_model_len}, but this checkpoint's tasks are "
            f"calibrated within its original context of {original} tokens (LongRoPE); serve with "
            f"--max-model-len {original}"
        )


def _refuse_uncompiled_stages(vllm_config: Any) -> None:
    """vLLM's V1 runner makes the buffers between pipeline stages when it warms up, which on CPU it
    leaves out for a model that is not compiled: the first request would end the engine."""
    stages = vllm_config.parallel_config.pipeline_parallel_size
    compiled = vllm_config.compilation_config.mode != CompilationMode.NONE
    if stages > 1 and current_platform.is_cpu() and not compiled:
        raise ModelError(
            f"--pipeline-parallel-size is {stages} and the model is not compiled, which vLLM's "
            "pipeline on CPU needs; serve without --enforce-eager and --enable-lora"
        )


def _refuse_outside_kv(vllm_config: Any) -> None:
    """`cache_salt` keeps tasks apart in vLLM's own prefix cache. Connectors may look KV up by its
    tokens alone (ExampleConnector, LMCache) or by what a caller says (NIXL)."""
    if vllm_config.kv_transfer_config is not None:
        raise ModelError(
            f"KV connector {vllm_config.kv_transfer_config.kv_connector} could give a task the KV "
            "of another; serve without --kv-transfer-config and --kv-offloading-size"
        )


def _slot_tables(model: Any, vllm_config: VllmConfig) -> SlotTables:
    model_config, scheduler = vllm_config.model_config, vllm_config.scheduler_config
    tasks = TaskConfig.of(vllm_config)
    pipeline = get_pp_group()
    num_layers = len(model.model.layers)
    own = get_pp_indices(num_layers, pipeline.rank_in_group, pipeline.world_size)
    return SlotTables(
        tasks_dir=tasks.tasks_dir,
        trusted=tasks.trusted,
        model=ModelIdentity.of(model_config.model),
        layers=range(*own),
        num_layers=num_layers,
        hidden_size=model_config.get_hidden_size(),
        num_tasks=tasks.resident_tasks(scheduler.max_num_seqs),
        max_tokens=scheduler.max_num_batched_tokens,
        dtype=model_config.dtype,
        device=torch.get_default_device(),
    )


def _adapt_sites(layers: nn.ModuleList, slots: SlotTables) -> None:
    """Turn the two sites of every layer on this pipeline rank into adapted ones."""
    for position, layer in enumerate(slots.layers):
        sites: tuple[Any, Any] = (layers[layer].self_attn, layers[layer].mlp)
        for site, module in enumerate(sites):
            module.register_buffer("task_scale", slots.scale[position, site], persistent=False)
            module.register_buffer("task_shift", slots.shift[position, site], persistent=False)
            module.register_buffer("token_slots", slots.token_slots, persistent=False)
            # vLLM's Transformers backend binds a rewritten forward to some instances
            bound, base = module.__dict__.pop("forward", None), type(module)
            forward = bound.__func__ if bound else base.forward
            module.__class__ = _adapted_class(base, forward)  # type: ignore[arg-type]


@cache
def _adapted_class(base: type[nn.Module], forward: Callable[..., Any]) -> type[nn.Module]:
    """A subclass of a site's class that injects into what its `forward` returns."""

    class Adapted(base):  # type: ignore[misc, valid-type]
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
    h = inject(h, site.task_scale[slots].unsqueeze(-1), site.task_shift[slots])
    torch.ops.ifedicl.materialize(h)
    return h
