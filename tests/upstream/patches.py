"""All patches of vLLM's own, by the one function that applies each, as `module:function`."""

PLUGIN = "ifedicl_serve.plugin.patches"
PATCHES = (
    f"{PLUGIN}.cache_salt:salt_blocks_by_task",
    f"{PLUGIN}.malformed:replace_malformed_tasks",
    f"{PLUGIN}.failures:end_failed_generations",
    f"{PLUGIN}.runner_v1:assign_slots_in_v1_runner",
    f"{PLUGIN}.sites:adapt_sites",
    f"{PLUGIN}.stage_marks:make_room_for_marks",
    f"{PLUGIN}.lora_head:refuse_lora_of_lm_head",
    f"{PLUGIN}.nan_counts:count_nans_in_logits",
    "api.vllm.admission:admit_classifications",
    "api.vllm.border:name_tasks_ourselves",
    "api.vllm.command:vllm_serve",
    "api.vllm.counters:counting_in_files",
    "api.vllm.drain:drain_before_shutdown",
    "api.vllm.generate:serve_tasks_as_models",
    "api.vllm.listed:list_tasks_as_models",
    "api.vllm.plugins:enable_plugins",
    "api.vllm.queue_time:record_queue_time",
    "api.vllm.quiet:quieten_log",
    "api.vllm.upgrades:decline_upgrades",
)
# What changes something and is no patch.
NO_PATCH = {
    "api/vllm/launch.py": "sets flags that were parsed, as a command line would",
    "api/access/admin_key.py": "sets a variable of ours",
    "ifedicl_serve/plugin/pipeline.py": "adds to what our own model sends to the next stage",
}


def file_of(patch: str) -> str:
    """Where a patch is, below the root of the repository."""
    return patch.partition(":")[0].replace(".", "/") + ".py"
