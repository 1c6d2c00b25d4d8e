"""The vLLM plugin: task-adapted architectures beside vLLM's own, which stay as they are.

`register` is the `vllm.general_plugins` entry point and runs in every vLLM process: front
end, engine core, workers, model inspection. A checkpoint is served adapted only if its
architecture is overridden with one of `ADAPTED_ARCHITECTURES`, so installing this package
changes nothing for other uses of vLLM.
"""

from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES


def register() -> None:
    """Register the adapted architectures and patch the four places vLLM has no hook for.

    Idempotent, as vLLM asks of plugins.
    """
    from vllm import ModelRegistry

    from ifedicl_serve.plugin.patches.cache_salt import salt_blocks_by_task
    from ifedicl_serve.plugin.patches.failures import end_failed_generations
    from ifedicl_serve.plugin.patches.malformed import replace_malformed_tasks
    from ifedicl_serve.plugin.patches.runner_v1 import assign_slots_in_v1_runner

    for architecture in ADAPTED_ARCHITECTURES.values():
        ModelRegistry.register_model(architecture, f"ifedicl_serve.plugin.models:{architecture}")
    replace_malformed_tasks()
    salt_blocks_by_task()
    assign_slots_in_v1_runner()
    end_failed_generations()
