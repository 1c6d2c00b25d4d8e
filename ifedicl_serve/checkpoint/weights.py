"""Which files a checkpoint's weights are loaded from, and a digest of a sample of what they hold.

Transformers, which calibrates, and vLLM, which serves, choose among a checkpoint's files by rules
of their own: `_get_resolved_checkpoint_files` in transformers' `modeling_utils`, `_prepare_weights`
in vLLM's `default_loader`. A checkpoint of which they would load different files is refused.
"""

import hashlib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import ADAPTER_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ifedicl_serve.checkpoint.files import digest_of, file_names, find, read_json
from ifedicl_serve.errors import ModelError

PICKLED = ("*.bin", "*.pt", "*.pth")


def weights_digest(model: str, download_dir: str | None = None) -> str:
    """Of every vector whole and of every matrix its first row: what any training, or a merged
    LoRA, changes, in a few megabytes where the checkpoint has gigabytes. A folder without weights
    (for vLLM's dummy ones) has the digest of none. Weights of a hub model lie in `download_dir`,
    where vLLM's flag of that name puts them, or in Hugging Face's cache. Raises ModelError."""
    names = sorted(weight_files(model, download_dir))
    paths = [_found(model, name, download_dir) for name in names]
    return digest_of({k: v for path in paths for k, v in _sample_digests(path).items()})


def weight_files(model: str, download_dir: str | None = None) -> set[str]:
    """The names of the files that transformers and vLLM both load, none if there are no weights.

    Raises ModelError, naming what to remove, if they would load different ones.
    """
    names = file_names(model, download_dir)
    _refuse_other_formats(model, names)
    beside = {name for name in names if fnmatch(name, "*.safetensors") and "/" not in name}
    if not beside:
        _refuse_pickles(model, names)
    indexed = _indexed(model, download_dir) if SAFE_WEIGHTS_INDEX_NAME in names else set()
    by_transformers = {SAFE_WEIGHTS_NAME} if SAFE_WEIGHTS_NAME in names else indexed
    by_vllm = indexed or beside
    if by_transformers != by_vllm:
        surplus = sorted(by_transformers - by_vllm or by_vllm - by_transformers)
        raise ModelError(
            f"{model}: transformers, which calibrates, would load {_listed(by_transformers)}, vLLM "
            f"{_listed(by_vllm)}, which may differ; remove {', '.join(surplus)}, or save the model "
            "anew with save_pretrained into an empty folder"
        )
    return by_vllm


def _refuse_other_formats(model: str, names: set[str]) -> None:
    """What only one of the loaders reads."""
    if ADAPTER_CONFIG_NAME in names:
        raise ModelError(
            f"{model}/{ADAPTER_CONFIG_NAME}: transformers would add this adapter to the model, "
            "vLLM would not; merge it (PEFT's merge_and_unload), or remove the file"
        )
    for name in sorted(names):
        if fnmatch(PurePosixPath(name).name, "consolidated*.safetensors"):
            raise ModelError(
                f"{model}/{name}: vLLM would load this, with Mistral's own config and tokenizer, "
                "transformers the files of Hugging Face's format; remove it (from a local copy, if "
                "this is a hub name)"
            )
    explicit = read_json(model, "config.json").get("transformers_weights")
    if explicit is not None:
        raise ModelError(
            f"{model}/config.json: transformers_weights names {explicit!r}, which vLLM does not "
            f"know of; name the file {SAFE_WEIGHTS_NAME} and remove the key"
        )


def _refuse_pickles(model: str, names: set[str]) -> None:
    """What both would load, and what cannot be compared without unpickling it."""
    for name in sorted(names):
        if "/" not in name and any(fnmatch(name, pattern) for pattern in PICKLED):
            raise ModelError(
                f"{model}: its weights are pickled ({name}), and no task is checked against what a "
                'pickle holds; convert them: python -c "from transformers import '
                f"AutoModelForCausalLM as M; M.from_pretrained('{model}')"
                f".save_pretrained('{model}')\""
            )


def _indexed(model: str, download_dir: str | None) -> set[str]:
    weight_map = read_json(model, SAFE_WEIGHTS_INDEX_NAME, download_dir).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(
            f"{model}/{SAFE_WEIGHTS_INDEX_NAME} has no weight_map; the file is damaged, download "
            "it again"
        )
    return set(weight_map.values())


def _found(model: str, name: str, download_dir: str | None) -> Path:
    path = find(model, name, download_dir)
    if path is None:
        raise ModelError(
            f"{model}/{name}: {SAFE_WEIGHTS_INDEX_NAME} names this file, and it is not there; "
            "download it"
        )
    return path


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _sample_digests(path: Path) -> dict[str, str]:
    # On the CPU: vLLM builds a model, and asks for this, with the GPU as torch's default device,
    # which safetensors would follow.
    try:
        with torch.device("cpu"), safe_open(path, framework="pt") as file:
            return {name: _sample_digest(file.get_slice(name)) for name in file.keys()}
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file: {error}; download it again") from error


def _sample_digest(tensor: Any) -> str:
    dimensions = len(tensor.get_shape())
    sample = tensor[:1] if dimensions > 1 else tensor[...]
    # Flat, as a single number (a scale of quantised weights) has no dimension to be bytes in.
    raw = sample.contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(raw.numpy().tobytes()).hexdigest()
