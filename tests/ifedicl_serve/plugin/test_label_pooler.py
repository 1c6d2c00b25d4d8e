"""Which scores a request's label tokens get, and how much memory a batch takes, however large the
union of its tokens."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from vllm import PoolingParams
from vllm.v1.worker.gpu.pool.pooling_runner import PoolingRunner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from ifedicl_serve.contract.spec import MAX_LABELS
from ifedicl_serve.plugin.label_pooler import LabelPooler, TaskPooler
from ifedicl_serve.plugin.label_rows import BYTES_AT_ONCE, rows_at_once
from ifedicl_serve.plugin.request import TaskRequest

HIDDEN, VOCABULARY = 64, 20_000
AT_ONCE = 1024
REQUESTS = 32


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


HEAD = random(VOCABULARY, HIDDEN, seed=1, dtype=torch.bfloat16)


def label_logits(hidden, token_ids):
    """As `TaskAdapted.label_logits` of a head that is whole on one rank."""
    rows = HEAD[token_ids.clamp(max=VOCABULARY - 1)]
    return (hidden.float() @ rows.float().T).masked_fill(token_ids >= VOCABULARY, torch.nan)


def metadata_of(tokens):
    """Of requests of one token each that ask for these label tokens."""
    asked = [TaskRequest(label_token_ids=tuple(ids)).extra_kwargs() for ids in tokens]
    cursor = SimpleNamespace(last_token_indices_gpu=torch.arange(len(tokens)))
    return SimpleNamespace(
        get_pooling_cursor=lambda: cursor,
        pooling_params=[PoolingParams(task="classify", extra_kwargs=one) for one in asked],
        tasks=["classify"] * len(tokens),
    )


def pooler(at_once):
    return LabelPooler(label_logits, None, at_once)


def mixed_tokens(count, most=700, seed=0):
    """Label tokens of some requests, of all lengths, and together most of the vocabulary."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, most, count)
    return [generator.choice(VOCABULARY, size, replace=False).tolist() for size in sizes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_union_in_parts_is_scored_bit_for_bit_as_at_once(dtype):
    tokens, hidden = mixed_tokens(REQUESTS), random(REQUESTS, HIDDEN, dtype=dtype)
    assert len({token for ids in tokens for token in ids}) > 4 * AT_ONCE
    whole = pooler(VOCABULARY)(hidden, metadata_of(tokens))
    parts = pooler(AT_ONCE)(hidden, metadata_of(tokens))
    assert torch.equal(parts, whole)
    for scores, state, ids in zip(parts, hidden, tokens, strict=True):
        expected = label_logits(state[None], torch.tensor(ids))[0].log_softmax(dim=-1)
        torch.testing.assert_close(scores[: len(ids)], expected)
        assert (scores[len(ids) :] == -torch.inf).all()


@pytest.mark.parametrize("at_once", [2, 3, VOCABULARY])
def test_nan_stays_with_its_request(at_once):
    """A task that failed, a token outside the vocabulary, and a request that names none."""
    hidden = random(4, HIDDEN)
    hidden[0] = torch.nan
    tokens = [(1, 2, 3), (4, VOCABULARY, 5), (), (3, 4)]
    scores = pooler(at_once)(hidden, metadata_of(tokens))
    assert scores[:3].isnan().any(dim=-1).tolist() == [True, True, True]
    assert scores[3, :2].exp().sum() == pytest.approx(1)


class Largest(TorchDispatchMode):
    """Remembers the most bytes that one result of a tensor operation had."""

    nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.nbytes = max(self.nbytes, result.nbytes)
        return result


def largest(run):
    with Largest() as seen:
        run()
    return seen.nbytes


def test_no_intermediate_grows_with_the_union():
    """Label rows in float32 for a batch's union once took 2.1 GB at a vocabulary of 128k."""
    hidden, bound = random(REQUESTS, HIDDEN), 4 * AT_ONCE * HIDDEN
    for seed, most in ((0, 700), (1, 50)):
        metadata = metadata_of(mixed_tokens(REQUESTS, most, seed))
        assert largest(lambda metadata=metadata: pooler(AT_ONCE)(hidden, metadata)) <= bound
    assert largest(lambda: label_logits(hidden, torch.arange(VOCABULARY))) > 10 * bound


def profile_v1(pooler, hidden):
    runner = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=REQUESTS),
        model_config=SimpleNamespace(pooler_config=None),
        device=hidden.device,
        get_model=lambda: SimpleNamespace(pooler=pooler),
    )
    return GPUModelRunner._dummy_pooler_run_task(runner, hidden, "classify")


def profile_v2(pooler, hidden):
    runner = SimpleNamespace(
        max_num_reqs=REQUESTS,
        model_config=SimpleNamespace(pooler_config=None),
        model=SimpleNamespace(pooler=pooler),
    )
    return PoolingRunner._dummy_pooler_run_task(runner, hidden, "classify")


@pytest.mark.parametrize("profile", [profile_v1, profile_v2])
def test_vllms_profiling_run_takes_as_much_as_any_batch(profile, monkeypatch):
    monkeypatch.setattr(PoolingParams, "verify", lambda self, model_config: None)
    ours, hidden = TaskPooler({"classify": pooler(AT_ONCE)}), random(4 * REQUESTS, HIDDEN)
    batch = metadata_of(mixed_tokens(REQUESTS))
    most = largest(lambda: ours(hidden, batch))
    assert largest(lambda: profile(ours, hidden)) >= most > 4 * AT_ONCE * HIDDEN / 2


@pytest.mark.parametrize(("hidden", "requests"), [(4096, 256), (896, 1024), (128, 4096)])
def test_what_is_scored_at_once_is_bounded_in_bytes(hidden, requests):
    rows = rows_at_once(hidden, requests)
    assert 4 * rows * max(hidden, requests) <= BYTES_AT_ONCE
    assert rows >= MAX_LABELS
    assert rows_at_once(1 << 20, 1) == MAX_LABELS  # a task's own rows are scored together
