"""The task contract (artifact, prompt, injection, label trie, registry) and the vLLM plugin.

Only `ifedicl_serve.plugin` may import vllm; everything else here is what calibration and
serving share, and runs with torch, safetensors and pydantic alone.
"""

__version__ = "0.1.0"
