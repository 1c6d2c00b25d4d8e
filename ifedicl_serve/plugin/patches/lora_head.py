"""LoRA adapters beside tasks: those of lm_head are refused."""

from typing import Any


def refuse_lora_of_lm_head(model: Any) -> None:
    """Take lm_head out of a model's `embedding_modules`; vLLM then refuses an adapter of it.

    Upstream: modules named there may have an adapter, `embedding_modules` being an attribute of the
    model's class (vllm/lora/utils.py, `get_supported_lora_modules`).
    Why: label scoring reads lm_head's rows without the adapter, so its scores would be wrong.
    Delete when vLLM lets a model say which modules have no adapter.
    """
    named = getattr(model, "embedding_modules", {})
    model.embedding_modules = {name: use for name, use in named.items() if name != "lm_head"}
