"""LoRA adapters beside tasks: a request gets its adapter, its task, both or neither.

The reference is the Hugging Face model with peft's adapter and the hooks of calibration.
"""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from vllm.lora.request import LoRARequest

from bench.common.random_tasks import random_task
from calibration.model.load import load_model
from ifedicl_serve.contract.prompt import tail_tokens
from ifedicl_serve.contract.tokens import token_ids
from tests.engine.conftest import engine, random_prompts, request, run
from tests.engine.reference import hooked, trie_of

LABELS = ("card", "cash", "exchange", "transfer")  # a token each
TEXTS = [f"question {number}: " + "why was my card declined? " * 10 for number in range(4)]
TOLERANCE = 1e-4  # as in test_agreement
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = (None, "one", "two")
# One more than there are: where all are taken, vLLM on CPU gives the last adapter to requests
# without one as well, as its index for none is -1 (vllm/lora/ops/torch_ops/lora_ops.py).
OPTIONS = dict(enable_lora=True, max_loras=3, max_lora_rank=8)


@pytest.fixture(scope="module")
def adapters(models, tmp_path_factory) -> dict:
    """vLLM's request for each adapter by its name; None for none."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(ADAPTERS[1:]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_pretrained(models["llama"])
        config = LoraConfig(r=8, target_modules=PROJECTIONS, init_lora_weights=False)
        get_peft_model(network, config).save_pretrained(folder / name)
    return {None: None} | {
        name: LoRARequest(name, number, str(folder / name))
        for number, name in enumerate(ADAPTERS[1:], start=1)
    }


@pytest.fixture(scope="module")
def case(models, adapters, tmp_path_factory):
    """A task, its prompts, and the reference [texts, labels] for each adapter, task or none."""
    folder = tmp_path_factory.mktemp("tasks")
    rung = {"fit": "channels", "extent": "tail"}
    artifact = random_task(models["llama"], folder / "task", 1, labels=LABELS, **rung)
    model = load_model(str(models["llama"]), dtype="fp32", device="cpu")
    spec = artifact.spec
    prompts = [spec.prompt.render(text) for text in TEXTS]
    expected = {}
    for name in ADAPTERS:
        if name is not None:
            base = load_model(str(models["llama"]), dtype="fp32", device="cpu").network
            model.network = PeftModel.from_pretrained(
                base, adapters[name].lora_path
            ).base_model.model
            model.layers = list(model.network.model.layers)
        expected[name, None] = hooked(model, artifact, TEXTS, adapted=False)
        expected[name, artifact.digest] = hooked(model, artifact, TEXTS)
    return SimpleNamespace(
        folder=folder,
        digest=artifact.digest,
        prompts=[token_ids(model.tokenizer, prompt) for prompt in prompts],
        labels=trie_of(model, spec).nodes[0].children,
        tail=tail_tokens(model.tokenizer, spec.prompt),
        expected=expected,
    )


def test_each_request_gets_its_adapter_and_its_task(models, adapters, case):
    """Asked twice, with the same prompts for all: the second time from the prefix cache."""
    kinds = list(product(ADAPTERS, (None, case.digest)))
    asked = [(kind, prompt) for prompt in case.prompts for kind in kinds]
    requests = [request(prompt, digest, case.labels, case.tail) for (_, digest), prompt in asked]
    loras = [adapters[name] for (name, _), _ in asked]
    with engine(models["llama"], case.folder, enable_prefix_caching=True, **OPTIONS) as llm:
        cold = run(llm, requests, lora_request=loras)
        warm = run(llm, requests, lora_request=loras)
    assert all(output.num_cached_tokens >= 32 for output in warm)  # a block at least
    expected = np.stack([case.expected[kind] for kind in kinds], axis=1)  # [texts, kinds, labels]
    for outputs in (cold, warm):
        scores = np.stack([output.outputs.data.numpy() for output in outputs])
        np.testing.assert_allclose(scores.reshape(expected.shape), expected, atol=TOLERANCE)
    assert len(np.unique(expected[0].round(3), axis=0)) == len(kinds)


def test_without_a_task_it_is_vanilla_vllm_with_the_adapter_bit_for_bit(models, adapters, case):
    def hidden_states(tasks) -> torch.Tensor:
        requests = [request(prompt) for prompt in random_prompts(12)]
        loras = [adapters[name] for name in ADAPTERS] * 4
        with engine(models["llama"], tasks, task="embed", **OPTIONS) as llm:
            outputs = run(llm, requests, task="embed", lora_request=loras)
        return torch.stack([output.outputs.data for output in outputs])

    assert torch.equal(hidden_states(case.folder), hidden_states(None))


def test_an_adapter_of_lm_head_is_refused(models, case, tmp_path):
    """Labels are scored with the rows of lm_head itself, so it would go unnoticed."""
    network = AutoModelForCausalLM.from_pretrained(models["qwen3"])  # the others tie theirs
    get_peft_model(network, LoraConfig(r=8, target_modules=["lm_head"])).save_pretrained(tmp_path)
    with (
        engine(models["qwen3"], case.folder, **OPTIONS) as llm,
        pytest.raises(ValueError, match=r"expected target modules in .* but received .*lm_head"),
    ):
        llm.llm_engine.add_lora(LoRARequest("head", 1, str(tmp_path)))
