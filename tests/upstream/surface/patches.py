"""What the plugin's patches stand on."""

from tests.upstream.surface.decoders import CAUSAL_LMS, DECODERS, MODELS
from tests.upstream.surface.row import Row

PATCHES = {
    "ifedicl_serve/plugin/patches/cache_salt.py": [
        Row("vllm.v1.core:kv_cache_utils", "whose function is wrapped"),
        Row(
            "vllm.v1.core.kv_cache_utils:generate_block_hash_extra_keys",
            "wrapped: what else than its tokens is hashed into a block",
            takes="request, start_token_idx, end_token_idx, start_mm_idx",
        ),
        Row(
            "vllm.v1.core.kv_cache_utils:get_request_block_hasher",
            "the caller of the wrapped, for each block of a request",
            has="generate_block_hash_extra_keys hash_block_tokens",
        ),
        Row(
            "vllm.v1.core.kv_cache_utils:hash_block_tokens",
            "chains the blocks",
            takes="hash_function, parent_block_hash, curr_block_token_ids, extra_keys=",
        ),
        Row("vllm.v1.request:Request.__init__", "whose prompt it is", has="num_prompt_tokens"),
    ],
    "ifedicl_serve/plugin/patches/malformed.py": [
        Row(
            "vllm.v1.request:Request.from_engine_core_request",
            "wrapped: every request comes through it before its blocks are hashed",
            takes="cls, request, block_hasher",
        ),
        Row(
            "vllm.v1.engine:EngineCoreRequest",
            "what it gets",
            has="request_id pooling_params sampling_params",
        ),
        Row(
            "vllm.v1.engine.core:EngineCore.preprocess_add_request",
            "the caller of the wrapped",
            has="from_engine_core_request",
        ),
    ],
    "ifedicl_serve/plugin/patches/failures.py": [
        Row(
            "vllm.v1.core.sched.scheduler:Scheduler.update_from_output",
            "wrapped: ends the requests in this set with an error",
            takes="self, scheduler_output, model_runner_output",
            has="encoder_cache_mismatch_reqs",
        ),
        Row(
            "vllm.v1.core.sched.scheduler:Scheduler",
            "who is running",
            has="requests encoder_cache_mismatch_reqs",
        ),
        Row(
            "vllm.v1.outputs:ModelRunnerOutput",
            "what a step sampled, and NaN in its logits",
            has="req_id_to_index sampled_token_ids num_nans_in_logits",
        ),
    ],
    "ifedicl_serve/plugin/patches/runner_v1.py": [
        Row(
            "vllm.v1.worker.gpu_model_runner:GPUModelRunner._prepare_inputs",
            "wrapped: the batch has its order, the forward pass has not begun",
            takes="self, scheduler_output, num_scheduled_tokens",
        ),
        Row(
            "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
            "whose model and requests these are",
            has="get_model requests input_batch",
        ),
        Row(
            "vllm.v1.worker.gpu_input_batch:InputBatch",
            "the order of rows, and tokens computed before",
            has="req_ids num_computed_tokens_cpu",
        ),
        Row(
            "vllm.v1.worker.gpu_input_batch:CachedRequestState",
            "tokens of the prompt",
            has="num_prompt_tokens",
        ),
    ],
    "ifedicl_serve/plugin/patches/sites.py": [
        Row(
            "vllm.utils.torch_utils:direct_register_custom_op",
            "registers `materialize`",
            accepts="mutates_args fake_impl target_lib",
        ),
        *(
            Row(f"{MODELS}.{module}:{layer}", "the two sites", has="self_attn mlp forward")
            for module, layer in DECODERS.values()
            if layer
        ),
        Row(
            f"{MODELS}.transformers.base:Base.forward",
            "calls the layers of a Transformers model, which name the sites so",
        ),
    ],
    "ifedicl_serve/plugin/patches/stage_marks.py": [
        Row("vllm.sequence:IntermediateTensors", "gets a tensor more"),
        *(
            Row(name, "the buffers between stages", has="make_empty_intermediate_tensors")
            for name in CAUSAL_LMS
        ),
        Row(
            f"{MODELS}.utils:make_empty_intermediate_tensors_factory",
            "makes them",
            has="batch_size dtype device",
        ),
    ],
    "ifedicl_serve/plugin/patches/lora_head.py": [
        Row(
            "vllm.lora.utils:get_supported_lora_modules",
            "reads which modules may have an adapter",
            has="embedding_modules",
        )
    ],
    "ifedicl_serve/plugin/patches/nan_counts.py": [
        Row("vllm.envs:VLLM_COMPUTE_NANS_IN_LOGITS", "turns the counts on"),
        Row("vllm.envs:VLLM_RAISE_ON_LOGIT_NANS", "ends the worker; refused"),
        Row(
            "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
            "V1's counts",
            has="_get_nans_in_logits",
        ),
        Row(
            "vllm.v1.worker.gpu.sample.sampler:Sampler.__init__",
            "V2's counts",
            has="VLLM_COMPUTE_NANS_IN_LOGITS",
        ),
    ],
}
