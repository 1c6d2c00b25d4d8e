"""Checkpoints whose layers are quantised (compressed-tensors): the injection comes behind them.

The hooked Hugging Face model multiplies with the dequantised weights. Tolerances, in bfloat16 and
log-probability. int4 weights: 0.1, as without quantisation. int8 weights and activations: 0.4,
twice what was measured; both sides round activations to 127ths of the token's largest, and where a
bfloat16 rounding differs between them they may land on different steps. The task itself moves the
scores by more than twice that.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from bench.common.random_tasks import random_task
from calibration.model.load import load_model
from tests.engine.conftest import TINY_QWEN2, engine, random_prompts, request, run
from tests.engine.in_process.test_agreement import LABELS, TEXTS, TOLERANCE, on_plugin
from tests.engine.reference import hooked

GROUP = 32
WEIGHTS = {
    "int4": dict(num_bits=4, type="int", strategy="group", group_size=GROUP, symmetric=True),
    "int8": dict(num_bits=8, type="int", strategy="channel", symmetric=True),
}
ACTIVATIONS = {
    "int4": None,
    "int8": dict(num_bits=8, type="int", strategy="token", symmetric=True, dynamic=True),
}
FORMAT = {"int4": "pack-quantized", "int8": "int-quantized"}
AGREES_WITHIN = {"int4": TOLERANCE["bf16"], "int8": 0.4}
if torch.backends.cpu.get_cpu_capability() == "AVX2":  # vLLM's build for it has no int4 kernel
    del AGREES_WITHIN["int4"]


def quantised(kind: str, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """A linear layer's tensors as compressed-tensors stores them, rounded to nearest."""
    levels = 2 ** (WEIGHTS[kind]["num_bits"] - 1) - 1
    group = WEIGHTS[kind].get("group_size", weight.shape[1])
    grouped = weight.float().unflatten(1, (-1, group))
    scale = grouped.abs().amax(dim=-1, keepdim=True) / levels
    values = (grouped / scale).round().flatten(1).to(torch.int8)
    scales = {f"{name}_scale": scale.squeeze(-1).to(weight.dtype)}
    if kind == "int8":
        return {name: values} | scales
    shape = torch.tensor(weight.shape)
    return {f"{name}_packed": pack_to_int32(values, 4), f"{name}_shape": shape} | scales


def checkpoint(kind: str, folder: Path) -> Path:
    """A tiny random LLaMA whose projections are quantised and whose lm_head is not."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=1, head_dim=64, max_position_embeddings=1024,
        initializer_range=0.1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_QWEN2).save_pretrained(folder)
    tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        tensors |= quantised(kind, name, weight) if "proj" in name else {name: weight}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    scheme = {"weights": WEIGHTS[kind], "input_activations": ACTIVATIONS[kind]}
    settings["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": FORMAT[kind],
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"]} | scheme},
        "ignore": ["lm_head"],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("quantised")
    return {kind: checkpoint(kind, root / kind) for kind in AGREES_WITHIN}


@pytest.mark.parametrize(("kind", "tolerance"), AGREES_WITHIN.items())
def test_a_task_agrees_with_the_hooked_model(folders, tmp_path, kind, tolerance):
    artifact = random_task(folders[kind], tmp_path / "task", 5, labels=LABELS)
    model = load_model(str(folders[kind]), dtype="bf16", device="cpu")
    (plugin,) = on_plugin(folders[kind], tmp_path, model, [artifact], "bfloat16")
    np.testing.assert_allclose(plugin, hooked(model, artifact, TEXTS), atol=tolerance)
    unadapted = hooked(model, artifact, TEXTS, adapted=False)
    assert np.abs(plugin - unadapted).max() > 2 * tolerance


@pytest.mark.parametrize("kind", AGREES_WITHIN)
def test_no_task_and_an_identity_task_are_vanilla_vllm_bit_for_bit(folders, tmp_path, kind):
    identity = random_task(folders[kind], tmp_path / "identity", 1, identity=True)
    task = random_task(folders[kind], tmp_path / "task", 2)
    vanilla = hidden_states(folders[kind], None, [None])
    ours = hidden_states(folders[kind], tmp_path, [None, identity.digest, task.digest])
    assert torch.equal(ours[0], vanilla[0])
    assert torch.equal(ours[1], vanilla[0])
    assert not torch.allclose(ours[2].float(), vanilla[0].float(), rtol=0.1)


def hidden_states(model: Path, tasks: Path | None, digests: list) -> list[torch.Tensor]:
    prompts = random_prompts(12)
    with engine(model, tasks, task="embed", dtype="bfloat16") as llm:
        batches = [
            run(llm, [request(prompt, digest) for prompt in prompts], task="embed")
            for digest in digests
        ]
    return [torch.stack([output.outputs.data for output in batch]) for batch in batches]
