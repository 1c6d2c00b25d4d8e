"""Tasks while generating: every decode step is adapted, and a task that fails ends its request."""

import pytest
import torch

from calibration.model.hooked import injected, last_tokens
from calibration.model.load import load_model
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.plugin.request import TaskKey, TaskRequest
from tests.engine.conftest import engine, random_prompts

NEW_TOKENS = 12
PROMPTS = random_prompts(6, seed=3)
LONG = random_prompts(1, low=200, high=201)[0]


@pytest.fixture(scope="module")
def vanilla(models):
    """What vLLM as it comes generates; its engine is gone before ours starts."""
    with engine(models["llama"], None, task="generate") as plain:
        return tokens(plain, [(prompt, None) for prompt in PROMPTS])


@pytest.fixture(scope="module")
def llm(models, tasks, vanilla):
    with engine(models["llama"], tasks[0], task="generate", enable_prefix_caching=True) as llm:
        yield llm


def generate(llm, requests, tail=None, max_tokens=NEW_TOKENS) -> list:
    """vLLM's outputs for (prompt, digest) pairs, greedily generated in one batch."""
    from vllm import SamplingParams

    params = [
        SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            ignore_eos=True,
            extra_args=TaskRequest(TaskKey(digest), tail=tail).extra_kwargs() if digest else None,
        )
        for _, digest in requests
    ]
    prompts = [{"prompt_token_ids": prompt} for prompt, _ in requests]
    return llm.generate(prompts, params, use_tqdm=False)


def tokens(llm, requests, tail=None) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in generate(llm, requests, tail)]


def hooked_tokens(model, artifact, prompts, tail) -> list[list[int]]:
    """The same by the hooked Hugging Face model, all computed anew for every token."""
    spec = artifact.spec
    mask = adapted_mask(spec.num_layers, spec.layers, spec.sites)
    starts = [0 if tail is None else max(0, len(prompt) - tail) for prompt in prompts]
    sequences = [list(prompt) for prompt in prompts]
    with injected(model, artifact.injection, mask, "tail"), torch.no_grad():
        for _ in range(NEW_TOKENS):
            hidden = last_tokens(model.hidden(sequences, starts), sequences)
            for sequence, token in zip(
                sequences, model.logits(hidden).argmax(dim=-1).tolist(), strict=True
            ):
                sequence.append(token)
    return [sequence[-NEW_TOKENS:] for sequence in sequences]


# Task 0 has coefficients, 1 a scale per channel, and 2 label rows beside, which generate nothing. A
# tail longer than a prompt is all of it.
@pytest.mark.parametrize(("number", "tail"), [(0, None), (1, None), (1, 4), (2, 20), (0, 0)])
def test_a_mixed_batch_generates_what_the_hooked_model_does(llm, models, tasks, number, tail):
    folder, digests = tasks
    model = load_model(str(models["llama"]), dtype="fp32", device="cpu")
    expected = hooked_tokens(model, load_artifact(folder / f"task{number}"), PROMPTS, tail)
    others = [(prompt, digests[4]) for prompt in PROMPTS] + [(PROMPTS[0], None)]
    found = tokens(llm, [(prompt, digests[number]) for prompt in PROMPTS] + others, tail)
    assert found[: len(PROMPTS)] == expected


def test_no_task_generates_what_vllm_does(llm, vanilla, tasks):
    mixed = [(prompt, digest) for prompt in PROMPTS for digest in (None, tasks[1][0])]
    assert tokens(llm, mixed)[::2] == vanilla


def test_decode_steps_are_adapted_not_the_prompt_alone(llm, tasks):
    """Appending what a task generated and asking for one token more goes on as it did."""
    digest = tasks[1][4]
    (whole,) = tokens(llm, [(PROMPTS[0], digest)])
    llm.reset_prefix_cache()
    (rest,) = tokens(llm, [([*PROMPTS[0], *whole[:5]], digest)])
    assert rest[: NEW_TOKENS - 5] == whole[5:]


def test_tasks_never_share_cached_blocks(llm, tasks):
    llm.reset_prefix_cache()
    first, second = tasks[1][:2]
    cached = [
        generate(llm, [(LONG, digest)])[0].num_cached_tokens
        for digest in (first, second, None, first)
    ]
    assert cached == [0, 0, 0, 192]  # 6 full blocks of 32


def test_what_a_tail_does_not_adapt_is_shared_and_what_is_generated_behind_it_is_not(llm, tasks):
    """40 tokens are generated behind 200 of which the last 8 are adapted: block 6 begins with the
    first of them, and decoding fills it and goes on."""
    first, second = tasks[1][:2]
    llm.reset_prefix_cache()
    (whole,) = generate(llm, [(LONG, first)], tail=8, max_tokens=40)
    longer = [*LONG, *whole.outputs[0].token_ids]
    tails = {first: len(longer) - 192, second: len(longer) - 192, None: None}
    cached = {
        digest: generate(llm, [(longer, digest)], tail)[0].num_cached_tokens
        for digest, tail in tails.items()
    }
    assert cached == {first: 224, second: 192, None: 192}
    assert generate(llm, [(longer, first)], tail=8)[0].num_cached_tokens == 224  # of the base model


def test_a_task_that_cannot_be_loaded_ends_its_request_with_an_error(llm, tasks):
    good = tasks[1][0]
    alone = tokens(llm, [(PROMPTS[0], good)])[0]
    served, failed, again = generate(
        llm, [(PROMPTS[0], good), (PROMPTS[1], "0" * 64), (PROMPTS[0], good)]
    )
    assert failed.outputs[0].finish_reason == "error"
    assert failed.outputs[0].token_ids == []
    for output in (served, again):
        assert output.outputs[0].finish_reason == "length"
        assert list(output.outputs[0].token_ids) == alone
    assert not llm.llm_engine.has_unfinished_requests()


def test_a_failed_request_of_several_chunks_and_with_logprobs_ends_too(llm, tasks):
    from vllm import SamplingParams

    params = SamplingParams(
        max_tokens=4, logprobs=3, extra_args=TaskRequest(TaskKey("1" * 64)).extra_kwargs()
    )
    (output,) = llm.generate([{"prompt_token_ids": LONG * 4}], params, use_tqdm=False)
    assert output.outputs[0].finish_reason == "error"


def test_a_malformed_task_ends_its_request_with_an_error(llm):
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=4, extra_args={"ifedicl": "[]"})
    (output,) = llm.generate([{"prompt_token_ids": PROMPTS[0]}], params, use_tqdm=False)
    assert output.outputs[0].finish_reason == "error"
