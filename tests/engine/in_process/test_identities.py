"""Exact identities: where nothing is adapted, every bit is vLLM's own."""

import pytest
import torch

from bench.common.random_tasks import random_task
from tests.engine.conftest import engine, random_prompts, request, run

PROMPTS = random_prompts(24)


def hidden_states(model, tasks, dtype, digest=None, **options) -> torch.Tensor:
    """Last hidden states [prompts, hidden] of one batch."""
    with engine(model, tasks, task="embed", dtype=dtype, **options) as llm:
        outputs = run(llm, [request(prompt, digest) for prompt in PROMPTS], task="embed")
    return torch.stack([output.outputs.data for output in outputs])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_no_task_and_identity_task_are_vanilla_vllm_bit_for_bit(models, family, dtype, tmp_path):
    model = models[family]
    identity = random_task(model, tmp_path / "identity", seed=1, identity=True)
    vanilla = hidden_states(model, None, dtype)
    with engine(model, tmp_path, task="embed", dtype=dtype) as llm:
        for digest in (None, identity.digest):
            outputs = run(llm, [request(prompt, digest) for prompt in PROMPTS], task="embed")
            ours = torch.stack([output.outputs.data for output in outputs])
            assert torch.equal(ours, vanilla)


def in_a_mixed_batch(model, tasks, task, dtype, **options) -> torch.Tensor:
    """Hidden states of every other prompt, unadapted, with adapted ones between them."""
    digests = [None, task.digest] * (len(PROMPTS) // 2)
    with engine(model, tasks, task="embed", dtype=dtype, **options) as llm:
        mixed = [request(*pair) for pair in zip(PROMPTS, digests, strict=True)]
        outputs = run(llm, mixed, task="embed")
    return torch.stack([output.outputs.data for output in outputs[::2]])


def test_no_task_is_vanilla_beside_adapted_requests_in_one_batch(models, tmp_path):
    task = random_task(models["llama"], tmp_path / "task", seed=1)
    vanilla = hidden_states(models["llama"], None, "bfloat16")
    ours = in_a_mixed_batch(models["llama"], tmp_path, task, "bfloat16")
    assert torch.equal(ours, vanilla[::2])


def test_compiled_no_task_is_compiled_vanilla_beside_adapted_requests(models, tmp_path):
    task = random_task(models["llama"], tmp_path / "task", seed=1)
    vanilla = hidden_states(models["llama"], None, "bfloat16", enforce_eager=False)
    ours = in_a_mixed_batch(models["llama"], tmp_path, task, "bfloat16", enforce_eager=False)
    assert torch.equal(ours, vanilla[::2])


def test_a_task_changes_the_hidden_states(models, tmp_path):
    model = models["llama"]
    task = random_task(model, tmp_path / "task", seed=1)
    unadapted = hidden_states(model, tmp_path, "float32")
    adapted = hidden_states(model, tmp_path, "float32", task.digest)
    assert not torch.allclose(adapted, unadapted, rtol=0.1)
