"""Many tasks on one text: its KV is computed once, every answer is the one it has alone, and no
block of KV is found by a request that would not have computed the same."""

from types import SimpleNamespace

import numpy as np
import pytest

from ifedicl_serve.plugin.request import AskedReadout, TaskKey, TaskRequest
from tests.engine.conftest import MIXED, engine, own_scores, random_prompts, request, run, scores

CHOICES = (300, 301, 302, 303, 304)
BLOCK = 32
LOST = "0" * 64
# float32 matrix products round differently in a batch of another size; nothing else may differ.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def llm(models, tasks):
    """With room for little, so that blocks are evicted, and prompts chunked and preempted."""
    options = dict(max_num_seqs=16, max_num_batched_tokens=1024, num_gpu_blocks_override=64)
    with engine(models["llama"], tasks[0], enable_prefix_caching=True, **options) as llm:
        yield llm


@pytest.fixture
def fresh(llm):
    """The engine with an empty prefix cache."""
    llm.reset_prefix_cache()
    return llm


@pytest.fixture
def steps(fresh, monkeypatch):
    """What each step of the scheduler is told to compute, by request in their order."""
    scheduler = fresh.llm_engine.engine_core.engine_core.scheduler
    schedule, seen = scheduler.schedule, []

    def recorded(*arguments):
        output = schedule(*arguments)
        seen.append(output)
        return output

    monkeypatch.setattr(scheduler, "schedule", recorded)
    return seen


def digests_of(tasks, rung):
    """Those that were made as this entry of `MIXED`."""
    return [digest for seed, digest in enumerate(tasks[1]) if seed % len(MIXED) == rung]


def adapting(tasks):
    return [digest for rung in range(3) for digest in digests_of(tasks, rung)]


def alone(llm, requests) -> list[np.ndarray]:
    """Each in a step of its own, without a look at the cache."""
    from vllm import PoolingParams

    answers = []
    for prompt, asked in requests:
        params = PoolingParams(
            task="classify", extra_kwargs=asked.extra_kwargs(), skip_reading_prefix_cache=True
        )
        (output,) = llm.encode([prompt], [params], pooling_task="classify", use_tqdm=False)
        answers.append(own_scores(output, asked))
    return answers


def assert_same(found, expected):
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=ROUNDING)


# -- what is computed


def test_sixteen_tasks_on_one_text_compute_it_once_and_answer_as_each_alone(fresh, tasks, steps):
    """All in one step: 15 blocks of the text are the base model's own, and everybody's."""
    text, *tails = random_prompts(17, low=505, high=506)
    named = zip(tails, adapting(tasks), strict=False)
    asked = [request([*text, *tail[:8]], digest, CHOICES, 8) for tail, digest in named]
    outputs = run(fresh, asked)
    (step,) = [step for step in steps if step.total_num_scheduled_tokens]
    assert list(step.num_scheduled_tokens.values()) == [513] + [33] * 15
    assert [output.num_cached_tokens for output in outputs] == [0] + [480] * 15
    found = [own_scores(output, who) for output, (_, who) in zip(outputs, asked, strict=True)]
    assert_same(found, alone(fresh, asked))


def test_readouts_of_many_tasks_are_one_request_and_take_no_slot(fresh, tasks):
    """Whatever rungs with label rows they are of, and also where one of them is lost."""
    (prompt,) = random_prompts(1, low=200, high=201)
    keys = [TaskKey(digest) for digest in digests_of(tasks, 3)]
    readouts = [AskedReadout(CHOICES[: 2 + n % 4], 4, key) for n, key in enumerate(keys)]
    many = (*readouts, AskedReadout(CHOICES), AskedReadout(CHOICES, 4, TaskKey(LOST)))

    def resident(worker):
        return len(worker.model_runner.get_model().task_slots._slots)

    before = fresh.collective_rpc(resident)
    (together,) = scores(fresh, [({"prompt_token_ids": prompt}, TaskRequest(None, many))])
    one_each = [TaskRequest(None, (readout,)) for readout in many]
    expected = alone(fresh, [({"prompt_token_ids": prompt}, one) for one in one_each])
    assert_same([together], expected)
    lost = expected[-1]
    assert np.isfinite(lost[:5]).all() and np.isnan(lost[5:]).all()
    assert np.isfinite(together[:-4]).all()
    assert fresh.collective_rpc(resident) == before


def test_a_task_is_adapted_from_the_same_token_on_wherever_in_a_block(fresh, tasks):
    """Tails of every length, none and all of the prompt among them, in a prompt of two blocks and a
    part; the same tokens under another task, under none, and with all of them adapted."""
    (prompt,) = random_prompts(1, low=70, high=71)
    first, second = adapting(tasks)[:2]
    whole = [request(prompt, digest, CHOICES) for digest in (None, first, second)]
    none, first_whole, second_whole = alone(fresh, whole)
    for tail in range(len(prompt) + 2):
        start = max(0, len(prompt) - tail)
        tails = [request(prompt, digest, CHOICES, tail) for digest in (first, second)]
        expected = alone(fresh, tails)
        fresh.reset_prefix_cache()
        outputs = run(fresh, [*tails, *whole, tails[0], whole[0]])
        shared, full = min(start // BLOCK, 2) * BLOCK, 2 * BLOCK
        of_all = full if start == 0 else 0
        cached = [output.num_cached_tokens for output in outputs]
        assert cached == [0, shared, shared, of_all, of_all, full, full], tail
        found = [output.outputs.data.numpy() for output in outputs]
        again = [expected[0], none]
        assert_same(found, [*expected, none, first_whole, second_whole, *again])


def test_what_a_lost_task_left_of_a_text_is_the_base_models(fresh, tasks):
    (prompt,) = random_prompts(1, low=70, high=71)
    asked = [request(prompt, digest, CHOICES, 6) for digest in (LOST, adapting(tasks)[0], LOST)]
    asked.append(request(prompt, None, CHOICES))
    outputs = run(fresh, asked)
    assert [output.num_cached_tokens for output in outputs] == [0, 64, 64, 64]
    found = [output.outputs.data.numpy() for output in outputs]
    assert [np.isnan(answer).all() for answer in found] == [True, False, True, False]
    assert_same(found, alone(fresh, asked))


def test_a_callers_salt_keeps_what_is_shared_apart(fresh, tasks):
    """In all of its blocks; within it tasks share as they do."""
    (prompt,) = random_prompts(1, low=70, high=71)
    first, second = adapting(tasks)[:2]
    asked = [
        ({"prompt_token_ids": prompt, "cache_salt": salt}, request(prompt, task, CHOICES, 6)[1])
        for salt in ("alice", "bob")
        for task in (first, second, None)
    ]
    cached = [output.num_cached_tokens for output in run(fresh, asked)]
    assert cached == [0, 64, 64] * 2


# -- isolation


class Ledger:
    """What each block of KV was computed from, by following the scheduler. Fails where a request is
    handed a block that it would not have computed the same."""

    def __init__(self):
        self.written, self.requests = {}, {}
        self.found = 0

    def follow(self, step):
        going_on = step.scheduled_cached_reqs
        for position, name in enumerate(going_on.req_ids):
            known = self.requests[name]
            blocks = going_on.new_block_ids[position]
            if name in going_on.resumed_req_ids:
                known.blocks = []
            known.blocks = [*known.blocks, *(blocks[0] if blocks else ())]
            self._compute(step, name, going_on.num_computed_tokens[position])
        for new in step.scheduled_new_reqs:
            tokens = new.prompt_token_ids
            adaptation = TaskRequest.of_request(new).adaptation(len(tokens))
            self.requests[new.req_id] = SimpleNamespace(
                tokens=tokens, adaptation=adaptation, blocks=list(new.block_ids[0])
            )
            self.found += new.num_computed_tokens
            self._compute(step, new.req_id, new.num_computed_tokens)

    def _compute(self, step, name, computed):
        known, end = self.requests[name], computed + step.num_scheduled_tokens[name]
        for block in range(computed // BLOCK):
            assert self.written[known.blocks[block]] == self._content(known, block)
        for block in range(computed // BLOCK, -(-end // BLOCK)):
            full = (block + 1) * BLOCK <= end
            self.written[known.blocks[block]] = self._content(known, block) if full else None

    def _content(self, known, block):
        end = (block + 1) * BLOCK
        adapted = known.adaptation.task is not None and known.adaptation.start < end
        return tuple(known.tokens[:end]), known.adaptation if adapted else None


def prompts_with_common_prefixes(generator, count):
    """Each is the beginning of another one, and goes on by itself."""
    prompts = [generator.integers(100, 1000, 60).tolist()]
    while len(prompts) < count:
        other = prompts[generator.integers(len(prompts))]
        shared = other[: generator.integers(len(other) + 1)]
        prompts.append(
            [*shared, *generator.integers(100, 1000, generator.integers(1, 40)).tolist()]
        )
    return prompts


def random_request(generator, prompts, tasks):
    """Of some task or none, from anywhere on, with rows of tasks that adapt nothing."""
    prompt = prompts[generator.integers(len(prompts))]
    kind = generator.integers(8)
    if kind < 2:
        heads = generator.choice(digests_of(tasks, 3), generator.integers(3))
        rows = [AskedReadout(CHOICES[:3], 4, TaskKey(str(digest))) for digest in heads]
        return {"prompt_token_ids": prompt}, TaskRequest(None, (AskedReadout(CHOICES), *rows))
    digest = LOST if kind == 2 else adapting(tasks)[generator.integers(6)]
    tail = [None, None, 0, 1, 5, 31, 32, 33, 64, 200][generator.integers(10)]
    return request(prompt, digest, CHOICES, tail)


def test_ten_thousand_requests_of_any_tasks_in_any_order_answer_as_alone(fresh, tasks, steps):
    """And no block is hit that was written under another key."""
    generator = np.random.default_rng(17)
    prompts = prompts_with_common_prefixes(generator, 60)
    different = [random_request(generator, prompts, tasks) for _ in range(500)]
    expected = alone(fresh, different)
    fresh.reset_prefix_cache()
    steps.clear()
    ledger, done = Ledger(), 0
    while done < 10_000:
        drawn = generator.integers(len(different), size=generator.integers(1, 80))
        found = scores(fresh, [different[which] for which in drawn])
        for step in steps:
            ledger.follow(step)
        steps.clear()
        assert_same(found, [expected[which] for which in drawn])
        done += len(drawn)
    assert ledger.found > 10_000 * BLOCK / 4
