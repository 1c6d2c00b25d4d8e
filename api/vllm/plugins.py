"""Which of vLLM's plugins load."""

import os
from importlib.metadata import entry_points

# Entry point groups that VLLM_PLUGINS filters once it is set; unset, vLLM loads all of them.
GATED_GROUPS = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)


def enable_plugins(*ours: str) -> None:
    """Name our plugins in VLLM_PLUGINS, for this process and those it starts.

    Upstream: endpoint plugins load only by name, and the same variable gates all other plugins
    (vllm/plugins/__init__.py).
    Why: whoever starts `ifedicl` wants ours. Those that would load without the variable are named
    too, or setting it would turn them off.
    Delete when vLLM can be told of a plugin to load beside the others.
    """
    if "VLLM_PLUGINS" in os.environ:
        named = [name for name in os.environ["VLLM_PLUGINS"].split(",") if name]
    else:
        named = [entry.name for group in GATED_GROUPS for entry in entry_points(group=group)]
    os.environ["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*named, *ours]))
