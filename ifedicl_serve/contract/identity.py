"""Which base model a task was calibrated on, as digests of its config, tokenizer and weights.

A context vector means nothing to another model, and label tokens nothing to another
tokenizer. Files are resolved as transformers does: a local folder or a hub name.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file

from ifedicl_serve.errors import ModelError

# Keys of config.json that say how a checkpoint was saved, not what it computes.
VOLATILE_KEYS = {"transformers_version", "dtype", "torch_dtype", "_name_or_path", "use_cache"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


class ModelIdentity(BaseModel):
    """A base model; `name` is for people, the rest is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    config_digest: str
    tokenizer_digest: str
    weights_digest: str

    @classmethod
    def of(cls, model: str, weights: bool = True) -> "ModelIdentity":
        """Identity of a local checkpoint folder or hub model. Raises ModelError if incomplete.

        Without `weights` their files are not looked for and their digest is empty, which is that of
        no model."""
        config = _read_json(model, "config.json")
        architectures = config.get("architectures") or []
        if not architectures:
            raise ModelError(
                f"{model}/config.json names no architecture; save it with transformers"
            )
        stable = {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
        return cls(
            name=Path(model).resolve().name if Path(model).is_dir() else model,
            architecture=architectures[0],
            config_digest=_digest(stable),
            tokenizer_digest=_tokenizer_digest(model),
            weights_digest=_weights_digest(model) if weights else "",
        )

    def with_weights(self, digest: str) -> "ModelIdentity":
        """The same model, of these weights."""
        return self.model_copy(update={"weights_digest": digest})

    def mismatch(self, other: "ModelIdentity") -> str | None:
        """What differs from `other` in a way that matters, or None."""
        for field in ("architecture", "config_digest", "tokenizer_digest", "weights_digest"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                return (
                    f"{field.replace('_', ' ')} {mine[:16]} of {self.name!r}, "
                    f"not {theirs[:16]} of {other.name!r}"
                )
        return None


def _tokenizer_digest(model: str) -> str:
    for name in TOKENIZER_FILES:
        path = _find(model, name)
        if path is None:
            continue
        if path.suffix == ".json":
            return _digest(_json_object(path))
        return hashlib.sha256(path.read_bytes()).hexdigest()
    raise ModelError(
        f"{model} has none of {', '.join(TOKENIZER_FILES)}; save its tokenizer beside it"
    )


def _weights_digest(model: str) -> str:
    """Of every vector whole and of every matrix its first row: what any training, or a merged
    LoRA, changes, in a few megabytes where the checkpoint has gigabytes. A folder without
    safetensors (for vLLM's dummy weights) has the digest of none."""
    index = _find(model, WEIGHTS_INDEX)
    names = set(_json_object(index)["weight_map"].values()) if index else {WEIGHTS_FILE}
    paths = [_find(model, name) for name in sorted(names)]
    return _digest({k: v for path in paths if path for k, v in _sample_digests(path).items()})


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


def _read_json(model: str, name: str) -> dict[str, Any]:
    path = _find(model, name)
    if path is None:
        raise ModelError(
            f"{model} has no {name}; expected a Hugging Face checkpoint folder or hub name"
        )
    return _json_object(path)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object; the file is damaged, download it again")
    return value


def _find(model: str, name: str) -> Path | None:
    try:
        found = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise ModelError(f"cannot read {name} of model {model!r}: {error}") from error
    return Path(found) if found else None


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
