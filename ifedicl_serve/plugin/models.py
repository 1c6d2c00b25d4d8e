"""vLLM's own decoders with the injection at their two sites, and a label pooler (or generating).

Nothing of vLLM's models is copied: each is made as vLLM makes it, and then patched (`patches`).
Which decoders, and under which names, `ifedicl_serve.contract.architectures` says.
"""

from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from vllm import ModelRegistry
from vllm.config import CompilationMode, VllmConfig
from vllm.distributed import get_pp_group, tensor_model_parallel_all_reduce
from vllm.distributed.utils import get_pp_indices
from vllm.model_executor.layers.pooler.seqwise import pooler_for_embed
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors

from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import ModelError
from ifedicl_serve.plugin.artifacts import WorkerArtifacts
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.plugin.label_pooler import LabelPooler, TaskPooler
from ifedicl_serve.plugin.label_rows import LabelRows, pool_size, rows_at_once
from ifedicl_serve.plugin.patches.lora_head import refuse_lora_of_lm_head
from ifedicl_serve.plugin.patches.nan_counts import count_nans_in_logits
from ifedicl_serve.plugin.patches.sites import adapt_sites
from ifedicl_serve.plugin.patches.stage_marks import make_room_for_marks
from ifedicl_serve.plugin.pipeline import fail_marked, mark_failed
from ifedicl_serve.plugin.slots import SlotTables


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
        adapt_sites(self.model.layers, self.task_slots)  # type: ignore[attr-defined]
        refuse_lora_of_lm_head(self)
        make_room_for_marks(self)
        if vllm_config.model_config.runner_type == "pooling":
            rows, at_once = self.task_slots.label_rows, _rows_at_once(vllm_config)
            self.pooler = TaskPooler(
                {
                    "classify": LabelPooler(self.label_logits, rows, at_once),
                    "embed": pooler_for_embed(vllm_config.model_config.pooler_config),
                }
            )
        else:
            count_nans_in_logits()

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


def _rows_at_once(vllm_config: VllmConfig) -> int:
    hidden_size = vllm_config.model_config.get_hidden_size()
    return rows_at_once(hidden_size, vllm_config.scheduler_config.max_num_seqs)


def _slot_tables(model: Any, vllm_config: VllmConfig) -> SlotTables:
    model_config, scheduler = vllm_config.model_config, vllm_config.scheduler_config
    tasks = TaskConfig.of(vllm_config)
    pipeline = get_pp_group()
    num_layers = len(model.model.layers)
    own = get_pp_indices(num_layers, pipeline.rank_in_group, pipeline.world_size)
    hidden_size, device = model_config.get_hidden_size(), torch.get_default_device()
    num_tasks = tasks.resident_tasks(scheduler.max_num_seqs)
    download_dir = vllm_config.load_config.download_dir
    identity = ModelIdentity.of(model_config.model, download_dir=download_dir)
    artifacts = WorkerArtifacts(tasks.tasks_dir, identity, num_layers, hidden_size, tasks.trusted)
    label_rows = None
    if model_config.runner_type == "pooling" and pipeline.is_last_rank:
        at_once = _rows_at_once(vllm_config)
        load = artifacts.label_rows
        label_rows = LabelRows(pool_size(num_tasks), hidden_size, device, at_once, load)
    return SlotTables(
        artifacts,
        layers=range(*own),
        num_tasks=num_tasks,
        max_tokens=scheduler.max_num_batched_tokens,
        dtype=model_config.dtype,
        device=device,
        label_rows=label_rows,
    )
