"""Checkpoints loaded, frozen, as hooked models."""

from collections.abc import Callable
from typing import Any

import torch

from calibration.model.hooked import HookedModel
from calibration.model.memory import Footprint, available, readable
from calibration.model.out_of_memory import weights_within_memory
from calibration.settings import Machine
from ifedicl_serve.errors import ModelError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NARROW = 768  # hidden size up to which one thread computes
HERE = Machine()


def open_model(
    name: str,
    machine: Machine = HERE,
    tell: Callable[[str], None] = lambda line: None,
    tokenizer: Any = None,
) -> HookedModel:
    """Load a model to fit with, without transformers' own progress bar: tell first what that will
    take, and choose threads for its width. Its `tokenizer` too, unless that is there already.

    Every operation waits for its slowest thread. On narrow models an operation is shorter than
    a time slice, so next to other busy processes two threads are many times slower than one.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    config, tokens = read_config(name), machine.max_batch_tokens
    dtype = chosen_dtype(config, machine.dtype, machine.device)
    footprint = Footprint.of(config, dtype)
    free = available(chosen_device(machine.device), machine.device_map != "none")
    checkpointing = machine.checkpointing == "on" or (
        machine.checkpointing == "auto" and footprint.total(tokens, False) > free
    )
    activations = footprint.activations(tokens, checkpointing)
    tell(
        f"memory: {readable(footprint.weights)} of weights ({str(dtype).split('.')[1]}), at most "
        f"{readable(activations)} of activations at {tokens} padded tokens"
        f"{', checkpointed' if checkpointing else ''}, {readable(footprint.task)} of the task; "
        f"{readable(free)} are free"
    )
    with weights_within_memory(readable(footprint.weights)):
        model = load_model(name, machine.dtype, machine.device, machine.device_map, tokenizer)
    model.max_batch_tokens, model.checkpointing = tokens, checkpointing
    if model.hidden_size <= NARROW:
        torch.set_num_threads(1)
    return model


def load_model(
    name: str,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str = "none",
    tokenizer: Any = None,
) -> HookedModel:
    """Load a local checkpoint folder or hub model, frozen; the options are those of `Machine`.
    Raises ModelError."""
    from transformers import AutoModelForCausalLM

    from ifedicl_serve.checkpoint.tokenizer import load_tokenizer

    config = read_config(name)
    tokenizer = tokenizer or load_tokenizer(name)
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=chosen_dtype(config, dtype, device),
            device_map=None if device_map == "none" else device_map,
        )
    except (OSError, ValueError, ImportError) as error:
        raise _unreadable(name, error) from error
    if getattr(network.config, "attn_logit_softcapping", None):
        network.set_attn_implementation("eager")  # Gemma 2: PyTorch's own attention has no cap
    if device_map == "none":
        network.to(chosen_device(device))
    else:
        _refuse_offloaded(name, getattr(network, "hf_device_map", {}))
    return HookedModel(network, tokenizer)


def read_config(name: str) -> Any:
    """A checkpoint's config. Raises ModelError."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    _dequantise_when_loaded(config)
    return config


def chosen_device(asked: str) -> str:
    """The one that was asked for, or (`auto`) a GPU if there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def chosen_dtype(config: Any, asked: str, device: str) -> torch.dtype:
    """The one that was asked for, or (`auto`) as `Machine` says."""
    if asked != "auto":
        return DTYPES[asked]
    if torch.device(chosen_device(device)).type == "cpu":
        return torch.float32
    own = config.dtype or torch.float32
    return torch.bfloat16 if own == torch.float16 else own


def _refuse_offloaded(name: str, device_map: dict[str, Any]) -> None:
    """Weights that lie elsewhere between passes would be fetched for every step."""
    places = {str(place) for place in device_map.values()}
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise ModelError(
            f"model {name!r} does not fit on the GPUs, parts of it were put on "
            f"{', '.join(sorted(places & {'cpu', 'disk'}))}; give --dtype bf16, or more GPUs"
        )


def _unreadable(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"cannot load model {name!r}: {error}; give a Hugging Face checkpoint folder or hub "
        "name of a causal language model"
    )


def _dequantise_when_loaded(config: Any) -> None:
    """compressed-tensors would do it when the whole network is first called, which `hidden`, that
    calls its decoder, never does."""
    quantization = getattr(config, "quantization_config", None) or {}
    if quantization.get("quant_method") == "compressed-tensors":
        quantization["dequantize"] = True
