"""Checkpoints loaded, frozen, as hooked models."""

from typing import Any

import torch

from calibration.model.hooked import HookedModel
from ifedicl_serve.errors import ModelError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NARROW = 768  # hidden size up to which one thread computes


def open_model(name: str, dtype: str, device: str) -> HookedModel:
    """Load a model without transformers' own progress bar, and choose threads for its width.

    Every operation waits for its slowest thread. On narrow models an operation is shorter than
    a time slice, so next to other busy processes two threads are many times slower than one.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = load_model(name, dtype, device)
    if model.hidden_size <= NARROW:
        torch.set_num_threads(1)
    return model


def load_model(name: str, dtype: str = "fp32", device: str = "auto") -> HookedModel:
    """Load a local checkpoint folder or hub model, frozen. Raises ModelError."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from ifedicl_serve.checkpoint.tokenizer import load_tokenizer

    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown (known: {', '.join(DTYPES)})")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(name)
    try:
        config = AutoConfig.from_pretrained(name)
        _dequantise_when_loaded(config)
        network: Any = AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=DTYPES[dtype]
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"cannot load model {name!r}: {error}; give a Hugging Face checkpoint folder or hub "
            "name of a causal language model"
        ) from error
    if getattr(network.config, "attn_logit_softcapping", None):
        network.set_attn_implementation("eager")  # Gemma 2: PyTorch's own attention has no cap
    return HookedModel(network.to(device), tokenizer)


def _dequantise_when_loaded(config: Any) -> None:
    """compressed-tensors would do it when the whole network is first called, which `hidden`, that
    calls its decoder, never does."""
    quantization = getattr(config, "quantization_config", None) or {}
    if quantization.get("quant_method") == "compressed-tensors":
        quantization["dequantize"] = True
