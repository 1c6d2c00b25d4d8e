"""Which files of a checkpoint vLLM and transformers load, by their own functions, beside what
`weight_files` says of it: those that it names are loaded by both, and what it refuses differs."""

import json
from pathlib import Path

import pytest
from transformers.modeling_utils import _get_resolved_checkpoint_files
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from ifedicl_serve.checkpoint.weights import weight_files
from ifedicl_serve.errors import ModelError
from tests.ifedicl_serve.checkpoints import save_checkpoint, save_index, save_weights

WHOLE, ONE, TWO = "model.safetensors", "model-1-of-2.safetensors", "model-2-of-2.safetensors"


def by_vllm(model: str) -> set[str]:
    loader = DefaultModelLoader(LoadConfig())
    _, files, _, _ = loader._prepare_weights(model, None, None, True, None)
    return {Path(file).name for file in files}


def by_transformers(model: str) -> set[str]:
    config = json.loads((Path(model) / "config.json").read_text())
    files, _ = _get_resolved_checkpoint_files(
        model,
        variant=None,
        gguf_file=None,
        use_safetensors=None,
        user_agent=None,
        is_remote_code=False,
        transformers_explicit_filename=config.get("transformers_weights"),
    )
    return {Path(file).name for file in files}


def checkpoint(folder: Path, files: tuple[str, ...], indexed: tuple[str, ...], config: dict) -> str:
    save_checkpoint(folder, config)
    for name in files:
        save_weights(folder / name)
    if indexed:
        save_index(folder, norm=indexed[0], matrix=indexed[-1])
    return str(folder)


@pytest.mark.parametrize(
    ("files", "indexed"),
    [
        ((WHOLE,), ()),
        ((ONE, TWO), (ONE, TWO)),
        ((WHOLE, "pytorch_model.bin", "training_args.bin"), ()),
        ((WHOLE, "before.safetensors"), (WHOLE,)),
    ],
)
def test_files_that_are_named_are_loaded_by_both(tmp_path, files, indexed):
    model = checkpoint(tmp_path / "model", files, indexed, {})
    assert weight_files(model) == by_vllm(model) == by_transformers(model)


@pytest.mark.parametrize(
    ("files", "indexed", "config"),
    [
        ((WHOLE, ONE, TWO), (ONE, TWO), {}),
        ((WHOLE, "more.safetensors"), (), {}),
        ((WHOLE, "consolidated.safetensors"), (), {}),
        ((WHOLE, "consolidated.safetensors"), (WHOLE,), {}),
        ((WHOLE, "w.safetensors"), (WHOLE,), {"transformers_weights": "w.safetensors"}),
    ],
)
def test_what_is_refused_differs(tmp_path, files, indexed, config):
    model = checkpoint(tmp_path / "model", files, indexed, config)
    with pytest.raises(ModelError):
        weight_files(model)
    assert by_vllm(model) != by_transformers(model)
