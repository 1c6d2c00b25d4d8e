"""What `api` stands on, but for `api.vllm`."""

from tests.upstream.surface.row import Row

API = {
    "api/plugin.py": [
        Row(
            "vllm.plugins.endpoint_plugins.interface:EndpointPlugin",
            "what ClassifyEndpoints is",
            has="name required_tasks",
        ),
        Row(
            "vllm.plugins.endpoint_plugins.interface:EndpointPlugin.attach_router",
            "called after vLLM's own routes are there, which it may replace",
            takes="self, app",
        ),
        Row(
            "vllm.plugins.endpoint_plugins.interface:EndpointPlugin.init_state",
            "called after vLLM's own state is there",
            takes="self, engine_client, state, args",
        ),
        Row(
            "vllm.v1.engine.async_llm:AsyncLLM",
            "the engine client",
            has="model_config vllm_config renderer",
        ),
        Row("vllm.config:VllmConfig", "the engine's configuration", has="load_config"),
        Row("vllm.config.load:LoadConfig", "where a hub model's weights lie", has="download_dir"),
        Row(
            "vllm.entrypoints.openai.models.serving:OpenAIServingModels",
            "names that are taken",
            has="base_model_paths lora_requests",
        ),
        Row(
            "vllm.entrypoints.launchers.api_server.app_state:init_app_state",
            "where they are",
            has="openai_serving_models",
        ),
        Row("vllm.renderers.base:BaseRenderer", "has the tokenizer", has="get_tokenizer"),
        Row(
            "vllm.config.model:ModelConfig",
            "the model's configuration",
            has="model runner_type max_model_len get_hidden_size get_total_num_hidden_layers",
        ),
    ],
    "api/classify/engine.py": [
        Row("vllm:PoolingParams", "asks for label scores", has="task extra_kwargs"),
        Row(
            "vllm:SamplingParams",
            "asks for a token's log-probabilities",
            has="max_tokens logprob_token_ids detokenize extra_args",
        ),
        Row("vllm.sampling_params:MAX_LOGPROB_TOKEN_IDS", "labels a request may ask for"),
        Row("vllm.v1.engine.exceptions:EngineDeadError", "the engine is gone"),
        Row(
            "vllm.v1.engine.async_llm:AsyncLLM.encode",
            "runs a pooling request",
            accepts="request_id trace_headers",
        ),
        Row(
            "vllm.v1.engine.async_llm:AsyncLLM.generate",
            "runs a request that generates",
            accepts="request_id trace_headers",
        ),
        Row("vllm.outputs:PoolingRequestOutput", "its answer", has="outputs num_cached_tokens"),
        Row("vllm.outputs:PoolingOutput", "its scores", has="data"),
        Row("vllm.outputs:RequestOutput", "its answer", has="outputs num_cached_tokens"),
        Row("vllm.outputs:CompletionOutput", "its token", has="finish_reason logprobs"),
        Row("vllm.logprobs:Logprob", "of a token", has="logprob"),
    ],
    "api/batch/offline.py": [
        Row("vllm:PoolingParams", "asks for label scores", has="task extra_kwargs"),
        Row(
            "vllm.entrypoints.llm:LLM",
            "the engine in this process",
            has="get_tokenizer model_config reset_prefix_cache",
        ),
        Row(
            "vllm.entrypoints.llm:LLM.encode",
            "runs pooling requests; a bar of ours takes the place of tqdm's",
            accepts="pooling_task use_tqdm",
        ),
        Row("vllm.outputs:PoolingOutput", "its scores", has="data"),
    ],
    "api/access/keys.py": [Row("vllm.envs:VLLM_API_KEY", "keys, as vLLM reads them")],
    "api/serve.py": [
        Row("vllm.engine.arg_utils:EngineArgs", "a default of ours", has="shutdown_timeout"),
        Row(
            "vllm.entrypoints.common.cli_args:FrontendArgs",
            "a default of ours",
            has="disable_uvicorn_access_log",
            formerly="vllm.entrypoints.launchers.cli_args:FrontendArgs",
        ),
    ],
}
