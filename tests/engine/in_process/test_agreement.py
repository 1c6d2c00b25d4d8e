"""Three independent computations of one artifact give the same label probabilities.

(1) the hooked Hugging Face model of calibration, (2) vLLM with the plugin, (3) the fused
export on vLLM as it comes, with no plugin class in sight.

Tolerances, in log-probability. float32: 1e-4; the three order their sums differently, nothing
else. bfloat16: 0.1; one rounding of an activation is 2^-8 relative, and the three round in
different places (the fused export also rounds beta into the weights), over 4 layers.
"""

import numpy as np
import pytest
import torch

from bench.common.random_tasks import random_task
from calibration.model.load import load_model
from calibration.result.export import export_fused
from ifedicl_serve.contract.prompt import token_ids
from tests.engine.conftest import engine, request, scores
from tests.engine.reference import hooked, trie_of

TEXTS = [
    "My new card has not arrived yet, how long does it take?",
    "Why was my transfer declined?",
    "The machine kept my cash",
    "what is the exchange rate for euros today",
]
# Several tokens, a shared first word, and one label that is a prefix of another.
LABELS = ("card", "card payment", "card delivery", "cash", "exchange rate")
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}
VLLM_DTYPE = {"fp32": "float32", "bf16": "bfloat16"}


def on_plugin(path, tasks, model, artifact, dtype) -> np.ndarray:
    """(2) the same on vLLM with the plugin."""
    spec, trie = artifact.spec, trie_of(model, artifact.spec)
    prompts = [token_ids(model.tokenizer, spec.prompt.render(text)) for text in TEXTS]
    with engine(path, tasks, dtype=dtype) as llm:
        choices = []
        for node in trie.nodes:
            inputs = [[*ids, *node.path] for ids in prompts]
            asked = [request(ids, artifact.digest, node.children) for ids in inputs]
            choices.append(scores(llm, asked))
    return trie.log_probs(np.concatenate(choices, axis=1))


def on_plain_vllm(path, model, spec, dtype) -> np.ndarray:
    """(3) the same on a plain checkpoint with vLLM's own model and sampler."""
    from vllm import SamplingParams

    trie = trie_of(model, spec)
    prompts = [token_ids(model.tokenizer, spec.prompt.render(text)) for text in TEXTS]
    choices = []
    with engine(path, None, task="generate", dtype=dtype) as llm:
        for node in trie.nodes:
            params = SamplingParams(max_tokens=1, logprob_token_ids=list(node.children))
            inputs = [{"prompt_token_ids": [*ids, *node.path]} for ids in prompts]
            outputs = llm.generate(inputs, params, use_tqdm=False)
            seen = [output.outputs[0].logprobs[0] for output in outputs]
            raw = torch.tensor([[row[child].logprob for child in node.children] for row in seen])
            choices.append(raw.log_softmax(dim=-1).numpy())
    return trie.log_probs(np.concatenate(choices, axis=1))


@pytest.mark.parametrize("layers", [None, (2, 3)], ids=["all layers", "last 2"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_hooked_injected_and_fused_agree(models, tmp_path, family, dtype, layers):
    path = models[family]
    artifact = random_task(path, tmp_path / "tasks" / "task", 5, layers=layers, labels=LABELS)
    model = load_model(str(path), dtype=dtype, device="cpu")
    reference = hooked(model, artifact, TEXTS)
    export_fused(model, str(path), artifact, tmp_path / "fused")
    plugin = on_plugin(path, tmp_path / "tasks", model, artifact, VLLM_DTYPE[dtype])
    fused = on_plain_vllm(tmp_path / "fused", model, artifact.spec, VLLM_DTYPE[dtype])
    np.testing.assert_allclose(np.exp(reference).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(plugin, reference, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(fused, reference, atol=TOLERANCE[dtype])


def test_qwen3_on_the_plugin_agrees_with_the_hooked_model(models, tmp_path):
    """Its MLP has no bias in any Hugging Face architecture, so there is no fused export of it."""
    path = models["qwen3"]
    artifact = random_task(path, tmp_path / "tasks" / "task", 5, labels=LABELS)
    model = load_model(str(path), dtype="fp32", device="cpu")
    plugin = on_plugin(path, tmp_path / "tasks", model, artifact, "float32")
    np.testing.assert_allclose(plugin, hooked(model, artifact, TEXTS), atol=TOLERANCE["fp32"])
