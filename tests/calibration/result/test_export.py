"""A fused checkpoint, run with no hooks, scores as the injected model does.

Tolerance 1e-4 in log-probability, float32: folding only reorders float32 operations.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3MoeConfig,
)

from calibration.model.hooked import HookedModel, injected
from calibration.model.load import load_model
from calibration.model.score import label_log_probs
from calibration.result.export import export_fused, fused_config
from calibration.task import TaskDefinition
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import adapted_mask, initial_coefficients
from ifedicl_serve.contract.spec import CalibrationRecord, TaskSpec
from ifedicl_serve.errors import ModelError
from tests.calibration.conftest import SHAPE, TINY_QWEN2, save_with_tokenizer

TEXTS = ["one", "a much longer text with several words in it", "x y z"]


def random_artifact(
    model: HookedModel, folder: Path, task: TaskDefinition, layers, sites
) -> Artifact:
    generator = torch.Generator().manual_seed(2)
    coefficients = initial_coefficients(model.num_layers, layers, sites)
    mask = adapted_mask(model.num_layers, layers, sites)
    moved = coefficients + 0.4 * torch.randn(coefficients.shape, generator=generator)
    coefficients[mask] = moved[mask]
    spec = TaskSpec(
        name=task.name,
        prompt=task.prompt,
        labels=task.labels,
        layers=layers,
        sites=sites,
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        model=ModelIdentity.of(str(folder)),
        calibration=CalibrationRecord(loss="restricted", rounds=1, seed=0, client_sizes=(1,)),
    )
    vector = torch.randn(model.num_layers, 2, model.hidden_size, generator=generator)
    tensors = {"context_vector": vector, "coefficients": coefficients}
    spec = spec.model_copy(update={"tensors": tuple(sorted(tensors))})
    return Artifact(spec, tensors, digest="")


def scores(model: HookedModel, task: TaskDefinition) -> np.ndarray:
    prompts = [task.prompt.render(text) for text in TEXTS]
    return label_log_probs(model, prompts, task.trie(model.tokenizer))


def by_channel(artifact: Artifact) -> Artifact:
    """The same with a scale of its own for every channel."""
    scale, shift = artifact.injection.scale, artifact.injection.shift
    drawn = torch.rand(shift.shape, generator=torch.Generator().manual_seed(3)) + 0.5
    untouched = artifact.injection.unchanged().unsqueeze(-1)
    tensors = {"scale": torch.where(untouched, scale, drawn), "shift": shift}
    spec = artifact.spec.model_copy(update={"tensors": tuple(tensors)})
    return Artifact(spec, tensors, digest="")


def agree(
    model: HookedModel,
    folder: Path,
    task: TaskDefinition,
    out: Path,
    layers,
    sites,
    change: Callable[[Artifact], Artifact] = lambda artifact: artifact,
) -> str:
    """Check that fused equals injected and differs from the base; return the architecture."""
    artifact = change(random_artifact(model, folder, task, layers, sites))
    export_fused(model, str(folder), artifact, out)
    mask = adapted_mask(model.num_layers, layers, sites)
    with injected(model, artifact.injection, mask):
        expected = scores(model, task)
    fused = load_model(str(out))
    np.testing.assert_allclose(scores(fused, task), expected, atol=1e-4)
    assert np.abs(expected - scores(model, task)).max() > 1e-2
    text = "Tokenised as before: 12 cases.\n\nYes"
    assert fused.tokenizer(text).input_ids == model.tokenizer(text).input_ids
    same = (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert same, "the tokenizer is copied unchanged"
    return type(fused.network).__name__


@pytest.mark.parametrize("last", [3, 1])
@pytest.mark.parametrize("sites", [("attn", "mlp"), ("attn",), ("mlp",)])
def test_llama(llama, llama_folder, task, tmp_path, last, sites) -> None:
    layers = tuple(range(3))[-last:]
    name = agree(llama, llama_folder, task, tmp_path / "fused", layers, sites)
    assert name == "LlamaForCausalLM"


@pytest.mark.parametrize("last", [4, 2])
@pytest.mark.parametrize("sites", [("attn", "mlp"), ("attn",)])
def test_qwen2_is_written_as_a_llama(qwen2, task, tmp_path, last, sites) -> None:
    layers = tuple(range(4))[-last:]
    name = agree(qwen2, TINY_QWEN2, task, tmp_path / "fused", layers, sites)
    assert name == "LlamaForCausalLM"


@pytest.mark.parametrize("sites", [("attn", "mlp"), ("mlp",)])
def test_a_scale_per_channel(llama, llama_folder, task, tmp_path, sites) -> None:
    out = tmp_path / "fused"
    name = agree(llama, llama_folder, task, out, (1, 2), sites, by_channel)
    assert name == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("change", "has"),
    [
        ({"extent": "tail"}, "adapts the tail of a prompt alone"),
        ({"tensors": ("bias", "scale", "sharpness", "shift")}, "has a readout"),
    ],
)
def test_what_no_plain_checkpoint_can_is_refused(llama, llama_folder, task, tmp_path, change, has):
    artifact = random_artifact(llama, llama_folder, task, (2,), ("mlp",))
    artifact = dataclasses.replace(artifact, spec=artifact.spec.model_copy(update=change))
    with pytest.raises(ModelError, match=f"{has}, which no plain checkpoint can; serve the art"):
        export_fused(llama, str(llama_folder), artifact, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def test_qwen3_carries_attention_but_not_the_mlp(qwen3, qwen3_folder, task, tmp_path) -> None:
    name = agree(qwen3, qwen3_folder, task, tmp_path / "fused", (0, 1, 2), ("attn",))
    assert name == "Qwen3ForCausalLM"
    both = random_artifact(qwen3, qwen3_folder, task, (2,), ("attn", "mlp"))
    with pytest.raises(ModelError, match="plain qwen3 checkpoint.* or calibrate with --sites attn"):
        export_fused(qwen3, str(qwen3_folder), both, tmp_path / "both")
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("kind", "own", "sites", "exported"),
    [
        ("mistral", {"sliding_window": None}, ("attn", "mlp"), "LlamaForCausalLM"),
        ("mistral", {"sliding_window": None}, ("mlp",), "LlamaForCausalLM"),
        ("gemma", {}, ("attn",), "GemmaForCausalLM"),
        ("gemma2", {"final_logit_softcapping": 2.0}, ("attn",), "Gemma2ForCausalLM"),
        ("gemma3_text", {}, ("attn",), "Gemma3ForCausalLM"),
        ("olmo2", {}, ("attn",), "Olmo2ForCausalLM"),
    ],
)
def test_others_as_far_as_they_have_biases(task, tmp_path, kind, own, sites, exported) -> None:
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | own))
    folder = save_with_tokenizer(network, tmp_path / "base")
    model = load_model(str(folder))
    assert agree(model, folder, task, tmp_path / "fused", (0, 1, 2), sites) == exported


def test_bf16_export_is_bf16(llama_folder, task, tmp_path) -> None:
    model = load_model(str(llama_folder), "bf16")
    artifact = random_artifact(model, llama_folder, task, (2,), ("mlp",))
    export_fused(model, str(llama_folder), artifact, tmp_path / "fused")
    with safe_open(tmp_path / "fused" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}


def test_sliding_window_is_refused(qwen2, task, tmp_path, monkeypatch) -> None:
    values = qwen2.network.config.to_dict() | {
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 0,
        "layer_types": None,
    }
    artifact = random_artifact(qwen2, TINY_QWEN2, task, (3,), ("mlp",))
    monkeypatch.setattr(qwen2.network, "config", Qwen2Config(**values))
    with pytest.raises(ModelError, match="uses a sliding window"):
        export_fused(qwen2, str(TINY_QWEN2), artifact, tmp_path / "fused")


def test_an_existing_folder_is_refused(llama, llama_folder, task, tmp_path) -> None:
    artifact = random_artifact(llama, llama_folder, task, (2,), ("mlp",))
    with pytest.raises(ModelError, match="exists; choose another folder"):
        export_fused(llama, str(llama_folder), artifact, tmp_path)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match="plain phi3 checkpoint"):
        fused_config(Phi3Config(), ("mlp",))
    with pytest.raises(ModelError, match="plain qwen3_moe checkpoint"):
        fused_config(Qwen3MoeConfig(), ("attn",))
    with pytest.raises(ModelError, match="mistral checkpoint uses a sliding window"):
        fused_config(MistralConfig(), ("mlp",))
