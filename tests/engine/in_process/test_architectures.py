"""Every architecture of the plugin's table: with a task it is the hooked Hugging Face model, and
without one it is vLLM's own. Tiny random checkpoints, made so that caps, scales, windows and
experts all matter.

LLaMA, Qwen2 and Qwen3 have the other modules of this folder.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Olmo2Model,
    Olmo3Model,
    OlmoeModel,
)

from api.classify.engine import group_requests
from bench.common.asking import read_out
from bench.common.random_tasks import PROMPT, random_task
from calibration.model.hooked import HookedModel, longest_prompt
from calibration.model.load import load_model
from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.errors import ModelError
from ifedicl_serve.tasks.task import Task
from tests.engine.conftest import TINY_QWEN2, engine, random_prompts, request, run
from tests.engine.in_process.test_agreement import (
    LABELS,
    RUNGS,
    TEXTS,
    TOLERANCE,
    chat_of,
    on_plugin,
)
from tests.engine.reference import hooked

SHAPE = dict(
    vocab_size=8000, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=1024,
    initializer_range=0.15, pad_token_id=0, bos_token_id=None, eos_token_id=0,
)  # fmt: skip
WINDOW = dict(sliding_window=8)  # shorter than the prompts
ALTERNATING = WINDOW | dict(layer_types=["sliding_attention", "full_attention"])
EXPERTS = dict(num_experts=4, num_experts_per_tok=2)
DENSE_LAST = dict(moe_intermediate_size=32, mlp_only_layers=[1])
SCORES = dict(query_pre_attn_scalar=16)
CAPS = dict(attn_logit_softcapping=1.0, final_logit_softcapping=2.0)
# Model type, and what it has that LLaMA has not.
FAMILIES = {
    "MistralForCausalLM": ("mistral", WINDOW),
    "Qwen2MoeForCausalLM": (
        "qwen2_moe",
        EXPERTS | DENSE_LAST | dict(shared_expert_intermediate_size=32),
    ),
    "Qwen3MoeForCausalLM": ("qwen3_moe", EXPERTS | DENSE_LAST),
    "Phi3ForCausalLM": ("phi3", {}),
    "GemmaForCausalLM": ("gemma", {}),
    "Gemma2ForCausalLM": ("gemma2", ALTERNATING | SCORES | CAPS),
    "Gemma3ForCausalLM": ("gemma3_text", ALTERNATING | SCORES),
    "Olmo2ForCausalLM": ("olmo2", {}),
    "Olmo3ForCausalLM": ("olmo3", ALTERNATING),
    "OlmoeForCausalLM": ("olmoe", EXPERTS),
    "GraniteForCausalLM": (
        "granite",
        dict(residual_multiplier=0.5, logits_scaling=4.0, embedding_multiplier=3.0),
    ),
    "CohereForCausalLM": ("cohere", dict(logit_scale=0.25)),
    "Glm4ForCausalLM": ("glm4", {}),
    "Exaone4ForCausalLM": ("exaone4", ALTERNATING),
    "SmolLM3ForCausalLM": ("smollm3", {}),
    "Starcoder2ForCausalLM": ("starcoder2", WINDOW),
}
# With a norm behind its sites; for the others these two show as much.
ALL_RUNGS = "Gemma2ForCausalLM"
FEW_RUNGS = [
    {"fit": "coefficients"},
    {"fit": "channels", "extent": "tail", "readout": "head"},
]
SHARING_RUNGS = [
    {"fit": "coefficients", "extent": "tail"},
    {"fit": "channels", "extent": "tail"},
    {"fit": "channels", "extent": "tail", "readout": "head"},
    {"fit": "none", "readout": "head"},
    {"fit": "none", "readout": "bias"},
    {"fit": "channels"},
]
PROMPTS = random_prompts(12)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, tasks of it, and the hooked model's label log-probabilities."""

    folder: Path
    tasks: Path
    model: HookedModel
    artifacts: list[Artifact]
    reference: list[np.ndarray]  # [texts, labels] of each task


@pytest.fixture(scope="module", autouse=True)
def decorated_until_the_end():
    """vLLM's Transformers backend (OLMo) decorates the classes it finds in transformers, which from
    then on work inside engines only. Undone after this module, for the tests that follow."""
    classes = [Olmo2Model, Olmo3Model, OlmoeModel]
    bases = [found.__bases__ for found in classes]
    with pytest.MonkeyPatch.context() as patch:
        for found in classes:
            patch.setattr(found, "__init__", found.__init__)
            patch.setattr(found, "__call__", found.__call__)
        yield
    for found, before in zip(classes, bases, strict=True):
        found.__bases__ = before


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Checkpoint]:
    """All references are computed before any engine starts, see `decorated_until_the_end`."""
    root = tmp_path_factory.mktemp("architectures")
    return {name: checkpoint(root, name, *family) for name, family in FAMILIES.items()}


def checkpoint(root: Path, architecture: str, kind: str, own: dict) -> Checkpoint:
    folder, tasks = root / "models" / kind, root / "tasks" / kind
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | own))
    assert type(network).__name__ == architecture
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_QWEN2).save_pretrained(folder)
    artifacts = [
        random_task(folder, tasks / f"task{number}", 5 + number, labels=LABELS, **rung)
        for number, rung in enumerate(RUNGS if architecture == ALL_RUNGS else FEW_RUNGS)
    ]
    model = load_model(str(folder), dtype="fp32", device="cpu")
    reference = [hooked(model, artifact, TEXTS) for artifact in artifacts]
    return Checkpoint(folder, tasks, model, artifacts, reference)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_plugin_agrees_with_the_hooked_model(checkpoints, architecture):
    ours = checkpoints[architecture]
    plugin = on_plugin(ours.folder, ours.tasks, ours.model, ours.artifacts, "float32")
    np.testing.assert_allclose(plugin, ours.reference, atol=TOLERANCE["fp32"])


@pytest.mark.parametrize("family", ["llama", "qwen2", "MistralForCausalLM"])
def test_tasks_that_share_a_text_agree_with_the_hooked_model(models, checkpoints, tmp_path, family):
    """Behind a plain prompt and behind a chat's, in one batch, its KV computed once. Every layer of
    the last one looks back on a few tokens alone."""
    path = models[family] if family in models else checkpoints[family].folder
    model = load_model(str(path), dtype="fp32", device="cpu")
    text = "My new card has not arrived yet, how long does it take? " * 8
    asked, tasks, expected = [], [], []
    for number, (rung, prompt) in enumerate(product(SHARING_RUNGS, (PROMPT, chat_of(path)))):
        folder = tmp_path / f"task{number}"
        artifact = random_task(path, folder, number, labels=LABELS, prompt=prompt, **rung)
        task = Task.of(artifact, model.tokenizer, folder)
        ids = token_ids(model.tokenizer, prompt.render(text))
        asked += [
            ({"prompt_token_ids": [*ids, *one.path]}, one.asked) for one in group_requests([task])
        ]
        tasks.append(task)
        expected.append(hooked(model, artifact, [text])[0])
    with engine(path, tmp_path, enable_prefix_caching=True) as llm:
        outputs = run(llm, asked)
    answers = (output.outputs.data.numpy() for output in outputs)
    found = [read_out(task, True, group_requests([task]), answers) for task in tasks]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE["fp32"])
    assert sum(output.num_cached_tokens >= 64 for output in outputs) > len(outputs) / 2


# One of vLLM's own, one with fused experts, one on its Transformers backend.
@pytest.mark.parametrize(
    "architecture", ["Gemma2ForCausalLM", "Qwen3MoeForCausalLM", "Olmo2ForCausalLM"]
)
def test_no_task_is_vanilla_vllm_bit_for_bit(checkpoints, architecture):
    ours = checkpoints[architecture]
    vanilla = hidden_states(ours.folder, None)
    assert torch.equal(hidden_states(ours.folder, ours.tasks), vanilla)


def hidden_states(model: Path, tasks: Path | None) -> torch.Tensor:
    with engine(model, tasks, task="embed") as llm:
        outputs = run(llm, [request(prompt) for prompt in PROMPTS], task="embed")
    return torch.stack([output.outputs.data for output in outputs])


def test_every_row_of_the_table_is_tested():
    elsewhere = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
    assert set(ADAPTED_ARCHITECTURES) == elsewhere | set(FAMILIES)


def test_another_architecture_has_no_adapted_class():
    from ifedicl_serve.plugin import models

    with pytest.raises(AttributeError, match="no attribute 'IFedICLGPT2LMHeadModel'"):
        _ = models.IFedICLGPT2LMHeadModel


def test_long_rope_stays_within_the_original_context_on_both_sides():
    """Phi-3's 128k checkpoints: beyond 4096 tokens the two choose other rotary factors."""
    from ifedicl_serve.plugin.models import _refuse_long_rope

    rope = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
    config = SimpleNamespace(rope_parameters=rope, max_position_embeddings=131072)
    assert longest_prompt(config) == 4096
    _refuse_long_rope(SimpleNamespace(hf_text_config=config, max_model_len=4096))
    with pytest.raises(ModelError, match="is 131072, .* serve with --max-model-len 4096"):
        _refuse_long_rope(SimpleNamespace(hf_text_config=config, max_model_len=131072))
