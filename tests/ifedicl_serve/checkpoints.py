"""Checkpoints in folders: a small tokenizer, and tensors of anybody's choice."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "rope_theta": 1e4}
TOKENIZER = {"tokenizer_class": "TokenizersBackend", "unk_token": "[UNK]", "eos_token": "</s>"}
TENSORS = {"norm": [1.0, 1.5], "matrix": [[1.0, 2.0]]}


def save_checkpoint(path: Path, config: dict | None = None, weights: str = "") -> str:
    """Without weights, unless a file of them is named; its path."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    (path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    save_tokenizer(path, {"[UNK]": 0, "</s>": 1, "Text": 2, "a": 3})
    if weights:
        save_weights(path / weights)
    return str(path)


def save_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    """Words of a vocabulary."""
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def save_weights(path: Path, **changes: object) -> None:
    """TENSORS, some of them changed or (None) left out."""
    tensors = {name: values for name, values in (TENSORS | changes).items() if values is not None}
    save_file({name: torch.tensor(values) for name, values in tensors.items()}, path)


def save_index(folder: Path, **files: str) -> None:
    """Which tensor is in which file."""
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
