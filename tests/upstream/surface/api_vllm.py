"""What `api.vllm` stands on."""

from tests.upstream.surface.row import Row

API_VLLM = {
    "api/vllm/offline.py": [
        Row("vllm:LLM", "the engine in this process", has="from_engine_args llm_engine"),
        Row(
            "vllm:EngineArgs", "its flags", has="add_cli_args from_cli_args model disable_log_stats"
        ),
        Row("vllm.utils.argparse_utils:FlexibleArgumentParser", "reads them"),
        Row("vllm.v1.engine.llm_engine:LLMEngine", "whose core is ended", has="engine_core"),
        Row("vllm.v1.engine.core_client:EngineCoreClient", "the core", has="shutdown"),
        Row("vllm.envs:VLLM_ENABLE_V1_MULTIPROCESSING", "a process of its own for the core"),
    ],
    "api/vllm/launch.py": [
        Row("vllm.config:PoolerConfig", "the engine pools", has="task"),
        Row(
            "vllm.engine.arg_utils:EngineArgs",
            "flags that we set or refuse",
            has="runner hf_overrides additional_config pooler_config convert revision tokenizer "
            "tokenizer_revision quantization tokenizer_mode config_format hf_config_path "
            "load_format weight_transfer_config kv_transfer_config kv_offloading_size "
            "max_num_queued_reqs",
        ),
        Row("vllm.config.load:LoadConfig", "where a hub model's weights lie", has="download_dir"),
        Row(
            "vllm.engine.arg_utils:EngineArgs.__post_init__",
            "takes a hub model from Hugging Face's cache when offline",
            has="HF_HUB_OFFLINE get_model_path",
        ),
        Row(
            "vllm.entrypoints.common.cli_args:FrontendArgs",
            "flags of the server that we set or refuse",
            has="api_key middleware root_path grpc_port",
            formerly="vllm.entrypoints.launchers.cli_args:FrontendArgs",
        ),
        Row(
            "vllm.entrypoints.common.cli_args:make_arg_parser",
            "has a flag that we refuse",
            has="--grpc",
            formerly="vllm.entrypoints.launchers.cli_args:make_arg_parser",
        ),
        Row("vllm.envs:VLLM_USE_RUST_FRONTEND", "another server, which we refuse"),
    ],
    "api/vllm/command.py": [
        Row(
            "vllm.entrypoints.cli.serve:ServeSubcommand",
            "`vllm serve`",
            has="subparser_init validate cmd",
        ),
        Row("vllm.logger:configure_logging_from_args", "its log", takes="args"),
        Row("vllm.utils.argparse_utils:FlexibleArgumentParser", "its flags"),
        Row(
            "vllm.entrypoints.cli.main:main",
            "what is imitated",
            has="cli_env_setup subparser_init configure_logging_from_args validate cmd",
        ),
        Row(
            "vllm.entrypoints.common.startup:cli_env_setup",
            "what is imitated",
            has="VLLM_WORKER_MULTIPROC_METHOD spawn",
            formerly="vllm.entrypoints.serve.utils.api_utils:cli_env_setup",
        ),
    ],
    "api/vllm/plugins.py": [
        Row("vllm.envs:VLLM_PLUGINS", "names the plugins that load"),
        *(
            Row(f"vllm.plugins:{name}", "a group that it gates", equals=group)
            for name, group in (
                ("DEFAULT_PLUGINS_GROUP", "vllm.general_plugins"),
                ("PLATFORM_PLUGINS_GROUP", "vllm.platform_plugins"),
                ("IO_PROCESSOR_PLUGINS_GROUP", "vllm.io_processor_plugins"),
                ("STAT_LOGGER_PLUGINS_GROUP", "vllm.stat_logger_plugins"),
            )
        ),
    ],
    "api/vllm/quiet.py": [
        Row("vllm.envs:VLLM_LOGGING_LEVEL", "keeps vLLM's log away from the bar")
    ],
    "api/vllm/counters.py": [
        Row(
            "vllm.v1.metrics.prometheus:setup_multiprocess_prometheus",
            "leaves the variable as it is where it is set",
            has="PROMETHEUS_MULTIPROC_DIR",
        )
    ],
    "api/vllm/admission.py": [
        Row(
            "vllm.v1.engine.async_llm:AsyncLLM.check_admission",
            "wrapped: asked before an engine request is queued",
            takes="self, n=, request_id=",
        )
    ],
    "api/vllm/border.py": [
        Row(
            "vllm.v1.engine.async_llm:AsyncLLM.add_request",
            "wrapped: every request to the engine comes through it",
            accepts="request_id prompt params",
        ),
        *(
            Row(
                f"vllm.v1.engine.async_llm:AsyncLLM.{method}",
                "calls the wrapped",
                has="add_request",
            )
            for method in ("encode", "generate")
        ),
        Row("vllm:SamplingParams", "what a caller may fill", has="extra_args"),
        Row("vllm:PoolingParams", "of the other kind", has="extra_kwargs"),
    ],
    "api/vllm/drain.py": [
        Row(
            "vllm.v1.engine.async_llm:AsyncLLM.shutdown",
            "wrapped: called in a thread when a signal arrives",
            takes="self, timeout=",
        ),
        Row("vllm.v1.engine.async_llm:AsyncLLM", "whether the engine lives", has="errored"),
        Row("vllm.entrypoints.launchers.launcher:serve_http", "calls it", has="shutdown timeout"),
    ],
    "api/vllm/queue_time.py": [
        Row(
            "vllm.v1.metrics.loggers:AggregateStatLoggerBase",
            "what QueueTime is",
            has="record log_engine_initialized",
        ),
        Row(
            "vllm.v1.metrics.loggers:AggregateStatLoggerBase.record",
            "called after every step",
            takes="self, scheduler_stats, iteration_stats, mm_cache_stats=, engine_idx=",
        ),
        Row("vllm.v1.metrics.loggers:StatLoggerManager", "gets a logger more", has="stat_loggers"),
        Row("vllm.v1.engine.async_llm:AsyncLLM", "the engine client", has="logger_manager"),
        Row("vllm.v1.metrics.stats:IterationStats", "a step", has="finished_requests"),
        Row(
            "vllm.v1.metrics.stats:FinishedRequestStats", "a request", has="request_id queued_time"
        ),
    ],
    "api/vllm/generate.py": [
        Row("vllm.exceptions:GenerationError", "what a request that ended with an error raises"),
        Row(
            "vllm.entrypoints.generate.api_router:init_generate_state",
            "where the proxies go",
            has="openai_serving_completion openai_serving_chat",
        ),
        *(
            Row(
                f"vllm.entrypoints.openai.{room}.serving:{serving}.{method}",
                "proxied: answers a request",
                takes="self, request, raw_request=",
            )
            for room, serving, method in (
                ("completion", "OpenAIServingCompletion", "create_completion"),
                ("chat_completion", "OpenAIServingChat", "create_chat_completion"),
            )
        ),
        Row(
            "vllm.entrypoints.openai.completion.serving:OpenAIServingCompletion",
            "whose models",
            has="models",
        ),
        Row(
            "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat",
            "whose models",
            has="models",
        ),
        Row(
            "vllm.entrypoints.serve.engine.serving:BaseServing._is_model_supported",
            "asks the proxied models whether a name is one",
            has="models is_base_model",
        ),
        Row(
            "vllm.entrypoints.generate.base.serving:GenerateBaseServing._raise_if_error",
            "raises for a request that ended with an error",
            has="GenerationError",
        ),
        Row(
            "vllm.entrypoints.openai.models.serving:OpenAIServingModels",
            "proxied: names of models",
            has="is_base_model model_name lora_requests",
        ),
        Row(
            "vllm.entrypoints.openai.completion.protocol:CompletionRequest",
            "what a caller sends",
            has="model use_beam_search cache_salt",
        ),
        Row(
            "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest",
            "what a caller sends",
            has="model use_beam_search cache_salt",
        ),
    ],
    "api/vllm/listed.py": [
        Row(
            "vllm.entrypoints.openai.models.serving:OpenAIServingModels.show_available_models",
            "proxied: the list of models",
            takes="self",
        ),
        Row("vllm.entrypoints.serve.engine.protocol:ModelList", "the list", has="data"),
        Row("vllm.entrypoints.serve.engine.protocol:ModelCard", "a model", has="id root parent"),
        Row(
            "vllm.entrypoints.launchers.api_server.app_state:init_app_state",
            "where the proxy goes",
            has="openai_serving_models",
        ),
    ],
}
