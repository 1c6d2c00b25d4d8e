"""Fused export: a task folded into a plain Hugging Face checkpoint that needs no plugin.

    scale * (W x + b) + shift  =  (scale W) x + (scale b + shift)

The scale multiplies the rows of o_proj and down_proj, the shift becomes their bias. LLaMA's config
has switches for both biases. Qwen2 and Mistral have neither, but compute what LLaMA does, so
they are written as a LLaMA. Some others have a switch for o_proj alone.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig
from transformers.utils.hub import cached_file

from calibration.model.hooked import HookedModel
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.injection import SITES, Injection, Site
from ifedicl_serve.contract.spec import TaskSpec
from ifedicl_serve.errors import ModelError

SITE_PROJECTIONS: dict[Site, str] = {"attn": "self_attn.o_proj", "mlp": "mlp.down_proj"}
COPIED_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
# Model types whose `attention_bias` reaches o_proj, in Hugging Face's model and in vLLM's.
ATTENTION_ONLY = ("qwen3", "gemma", "gemma2", "gemma3_text", "olmo2")
# What a LLaMA config takes over from a Qwen2 or Mistral one; the maths between them is the same.
SHARED_WITH_LLAMA = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_dropout",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


def export_fused(model: HookedModel, source: str, artifact: Artifact, folder: Path) -> None:
    """Write `model` with the task folded in to `folder`; `source` is where its tokenizer is.

    Raises ModelError if the folder exists or no plain architecture can carry the task.
    """
    if folder.exists():
        raise ModelError(f"{folder} exists; choose another folder or remove it")
    _refuse_unfoldable(artifact.spec)
    config = fused_config(model.network.config, artifact.spec.sites)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    weights = fused_weights(model.network.state_dict(), network.state_dict(), artifact.injection)
    network.load_state_dict(weights, strict=True, assign=True)
    network.tie_weights()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        staged = Path(temporary) / "new"
        network.save_pretrained(staged)
        _copy_companions(source, staged)
        staged.rename(folder)


def _refuse_unfoldable(spec: TaskSpec) -> None:
    if spec.extent != "all" or spec.readout != "none":
        has = "adapts the tail of a prompt alone" if spec.extent != "all" else "has a readout"
        raise ModelError(
            f"task {spec.name!r} {has}, which no plain checkpoint can; serve the artifact with the "
            "plugin, or calibrate with --extent all --readout none"
        )


def fused_config(config: PreTrainedConfig, sites: tuple[Site, ...]) -> PreTrainedConfig:
    """The config of an architecture with an output bias at every adapted site."""
    kind = config.model_type
    values = config.to_dict()
    if kind == "llama":
        biases = {
            "attention_bias": config.attention_bias or "attn" in sites,
            "mlp_bias": config.mlp_bias or "mlp" in sites,
        }
        return LlamaConfig(**values | biases)
    if kind in ("qwen2", "mistral"):
        _refuse_sliding_window(config)
        shared = {name: values[name] for name in SHARED_WITH_LLAMA}
        head_dim = getattr(config, "head_dim", None)
        return LlamaConfig(
            **shared,
            head_dim=head_dim or config.hidden_size // config.num_attention_heads,
            dtype=config.dtype,
            # Qwen2 always has biases on q, k and v
            attention_bias=kind == "qwen2" or "attn" in sites,
            mlp_bias="mlp" in sites,
        )
    if kind in ATTENTION_ONLY and "mlp" not in sites:
        return type(config)(**values | {"attention_bias": True})
    raise ModelError(
        f"a task adapting {', '.join(sites)} cannot be folded into a plain {kind} checkpoint: no "
        "Hugging Face architecture has its computation with an output bias there; serve the "
        "artifact with the plugin"
        + (", or calibrate with --sites attn" if kind in ATTENTION_ONLY else "")
    )


def fused_weights(
    base: dict[str, Tensor], expected: dict[str, Tensor], injection: Injection
) -> dict[str, Tensor]:
    """The base's weights with every site folded; biases it did not have are zero."""
    weights = dict(base)
    for name, shape in ((name, tensor.shape) for name, tensor in expected.items()):
        if name not in weights:
            weights[name] = torch.zeros(shape)
    for layer, site in ((layer, site) for layer in range(len(injection.scale)) for site in SITES):
        name = f"model.layers.{layer}.{SITE_PROJECTIONS[site]}"
        index = (layer, SITES.index(site))
        scale, shift = injection.scale[index].cpu(), injection.shift[index].cpu()
        weights[f"{name}.weight"] = scale[:, None] * base[f"{name}.weight"].cpu().float()
        if f"{name}.bias" in weights:
            weights[f"{name}.bias"] = scale * weights[f"{name}.bias"].cpu().float() + shift
    dtype = base["model.embed_tokens.weight"].dtype
    return {name: tensor.to("cpu", dtype) for name, tensor in weights.items()}


def _refuse_sliding_window(config: Any) -> None:
    if config.sliding_window is not None:
        raise ModelError(
            f"this {config.model_type} checkpoint uses a sliding window, which LLaMA's "
            "architecture lacks; serve the artifact with the plugin instead of exporting it"
        )


def _copy_companions(source: str, folder: Path) -> None:
    for name in COPIED_FILES:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if found:
            shutil.copyfile(found, folder / name)
