"""What the plugin stands on, but for its patches."""

from tests.upstream.surface.decoders import CAUSAL_LMS, DECODERS, MODELS, THROUGH_TRANSFORMERS
from tests.upstream.surface.row import Row

PLUGIN = {
    "pyproject.toml": [
        Row(
            "vllm.plugins:DEFAULT_PLUGINS_GROUP",
            "entry point group of `register`, which every vLLM process calls",
            equals="vllm.general_plugins",
        ),
        Row(
            "vllm.plugins:ENDPOINT_PLUGINS_GROUP",
            "entry point group of `ClassifyEndpoints`, which the API process makes",
            equals="vllm.endpoint_plugins",
        ),
    ],
    "ifedicl_serve/contract/architectures.py": [
        Row(
            f"{MODELS}.registry:_TEXT_GENERATION_MODELS",
            "the checkpoints' names of what can be adapted",
            has=" ".join(DECODERS),
        ),
        Row(
            f"{MODELS}.registry:_TRANSFORMERS_SUPPORTED_MODELS",
            "the checkpoints' names of what can be adapted",
            has=" ".join(THROUGH_TRANSFORMERS),
        ),
    ],
    "ifedicl_serve/plugin/__init__.py": [
        Row("vllm:ModelRegistry", "the adapted models' names and where they are"),
        Row(
            f"{MODELS}.registry:ModelRegistry.register_model",
            "takes 'module:Class', and a name it knows already",
            takes="self, model_arch, model_cls",
        ),
    ],
    "ifedicl_serve/plugin/config.py": [
        Row(
            "vllm.config:VllmConfig.compute_hash",
            "asks our configuration for its part of the compile cache's key",
            has="additional_config compute_hash",
        )
    ],
    "ifedicl_serve/plugin/request.py": [
        Row("vllm.pooling_params:PoolingParams", "carries our key", has="extra_kwargs"),
        Row("vllm.sampling_params:SamplingParams", "carries our key", has="extra_args"),
        *(
            Row(name, "carries the parameters", has="pooling_params sampling_params")
            for name in (
                "vllm.v1.engine:EngineCoreRequest",  # to cache_salt
                "vllm.v1.request:Request",  # to failures
                "vllm.v1.worker.gpu_input_batch:CachedRequestState",  # to runner_v1
                "vllm.v1.core.sched.output:NewRequestData",  # to runner_v2
            )
        ),
    ],
    "ifedicl_serve/plugin/models.py": [
        Row("vllm:ModelRegistry", "vLLM's own class of an architecture", has="models"),
        Row(f"{MODELS}.registry:_LazyRegisteredModel", "loads it", has="load_model_cls"),
        *(
            Row(
                f"{name}.forward",
                "called with what the runner calls ours with",
                accepts="input_ids positions intermediate_tensors inputs_embeds",
            )
            for name in CAUSAL_LMS
        ),
        Row(
            "vllm.config:VllmConfig",
            "what an engine is configured with",
            has="model_config parallel_config scheduler_config compilation_config "
            "kv_transfer_config load_config",
        ),
        Row("vllm.config.load:LoadConfig", "where a hub model's weights lie", has="download_dir"),
        Row(
            "vllm.config.model:ModelConfig",
            "the model's part",
            has="hf_text_config max_model_len runner_type pooler_config model dtype "
            "get_hidden_size",
        ),
        Row(
            "vllm.config.parallel:ParallelConfig",
            "the ranks' part",
            has="use_ubatching pipeline_parallel_size",
        ),
        Row(
            "vllm.config.scheduler:SchedulerConfig",
            "bounds of a batch, for which slot tables are made",
            has="max_num_seqs max_num_batched_tokens",
        ),
        Row("vllm.config.compilation:CompilationConfig", "whether it compiles", has="mode"),
        Row("vllm.config:CompilationMode", "whether it compiles", has="NONE"),
        Row("vllm.config:KVTransferConfig", "named when it is refused", has="kv_connector"),
        Row("vllm.distributed:get_pp_group", "this worker's pipeline stage"),
        Row(
            "vllm.distributed.parallel_state:GroupCoordinator",
            "this worker's pipeline stage",
            has="rank_in_group world_size is_last_rank",
        ),
        Row(
            "vllm.distributed.utils:get_pp_indices",
            "the decoder layers of a stage",
            takes="num_hidden_layers, pp_rank, pp_size",
        ),
        Row(
            "vllm.distributed:tensor_model_parallel_all_reduce",
            "sums the ranks' label logits",
            takes="input_",
        ),
        Row(
            "vllm.model_executor.layers.pooler.seqwise:pooler_for_embed",
            "embeddings beside label scores",
            takes="pooler_config",
        ),
        Row(
            "vllm.model_executor.layers.vocab_parallel_embedding:UnquantizedEmbeddingMethod",
            "what the rows of lm_head may be read of",
        ),
        Row(
            "vllm.model_executor.layers.vocab_parallel_embedding:VocabParallelEmbedding",
            "lm_head, whose rows score labels",
            has="quant_method shard_indices org_vocab_size",
        ),
        Row(
            "vllm.model_executor.layers.vocab_parallel_embedding:VocabParallelEmbeddingShardIndices",
            "the rows that a rank owns",
            has="org_vocab_start_index org_vocab_end_index",
        ),
        Row(
            "vllm.model_executor.layers.logits_processor:LogitsProcessor",
            "caps and scales that label logits get as well",
            has="soft_cap scale",
        ),
        Row(
            "vllm.model_executor.layers.logits_processor:LogitsProcessor.forward",
            "what `label_logits` does after lm_head as it does",
            has="soft_cap scale",
        ),
        Row("vllm.platforms:current_platform", "whether this is the CPU", has="is_cpu"),
        Row("vllm.sequence:IntermediateTensors", "what goes between pipeline stages"),
        Row(
            "vllm.v1.worker.gpu.model_states:resolve_model_state_cls",
            "asks the model for `runner_v2`",
            has="get_model_state_cls",
        ),
    ],
    "ifedicl_serve/plugin/label_pooler.py": [
        Row(
            "vllm.model_executor.layers.pooler:DispatchPooler",
            "a pooler a task",
            has="poolers_by_task forward",
        ),
        Row(
            "vllm.model_executor.layers.pooler.abstract:Pooler",
            "the interface of ours",
            has="get_supported_tasks forward",
        ),
        Row(
            "vllm.model_executor.layers.pooler.abstract:Pooler.forward",
            "the interface of ours",
            takes="self, hidden_states, pooling_metadata",
        ),
        Row("vllm.model_executor.layers.pooler.abstract:PoolerOutput", "a type"),
        Row("vllm.tasks:PoolingTask", "a type", has="classify"),
        Row(
            "vllm.v1.pool.metadata:PoolingMetadata",
            "a batch",
            has="get_pooling_cursor pooling_params tasks",
        ),
        Row(
            "vllm.v1.pool.metadata:PoolingCursor",
            "where each request's last token is",
            has="last_token_indices_gpu",
        ),
    ],
    "ifedicl_serve/plugin/pipeline.py": [
        Row("vllm.distributed:tensor_model_parallel_all_reduce", "makes a tensor whole again"),
        Row("vllm.sequence:IntermediateTensors", "carries the marks beside what a model sends"),
        Row(f"{MODELS}.llama:LlamaModel.forward", "names what it sends", has="hidden_states"),
    ],
    "ifedicl_serve/plugin/runner_v2.py": [
        Row(
            "vllm.v1.core.sched.output:NewRequestData",
            "a request that joins, and tokens of its prompt",
            has="req_id prompt_len",
        ),
        Row(
            "vllm.v1.worker.gpu.input_batch:InputBatch",
            "a batch, in its order",
            has="req_ids num_computed_tokens_np num_scheduled_tokens",
        ),
        Row("vllm.v1.worker.gpu.states:RequestState", "a type"),
        Row(
            "vllm.v1.worker.gpu.model_states.default:DefaultModelState",
            "what TaskModelState extends",
            has="model",
        ),
        Row(
            "vllm.v1.worker.gpu.model_states.default:DefaultModelState.add_request",
            "called for every request that joins or comes back",
            takes="self, req_index, new_req_data",
        ),
        Row(
            "vllm.v1.worker.gpu.model_states.default:DefaultModelState.remove_request",
            "called for every request that ends or is preempted",
            takes="self, req_id",
        ),
        Row(
            "vllm.v1.worker.gpu.model_states.default:DefaultModelState.prepare_inputs",
            "called before every forward pass, dummy ones too",
            takes="self, input_batch, req_states",
        ),
        *(
            Row(f"vllm.v1.worker.gpu.model_runner:GPUModelRunner.{caller}", "calls it", has=called)
            for caller, called in (
                ("add_requests", "add_request"),
                ("_remove_request", "remove_request"),
                ("execute_model", "prepare_inputs"),
            )
        ),
    ],
}
