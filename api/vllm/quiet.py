"""How much vLLM says on a terminal."""

import os


def quieten_log() -> None:
    """Set VLLM_LOGGING_LEVEL to ERROR, unless it is set, for this process and those it starts.

    Upstream: vLLM's log goes to the terminal from INFO on, and is configured when vllm is imported
    (vllm/logger.py).
    Why: `ifedicl classify` shows a bar there. What else there is to say stands between bar and
    reader.
    Delete when vLLM takes the level with its other arguments.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
