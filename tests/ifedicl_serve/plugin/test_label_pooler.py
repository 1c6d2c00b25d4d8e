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
from ifedicl_serve.plugin.label_rows import BYTES_AT_ONCE, LabelRows, rows_at_once
from ifedicl_serve.plugin.request import AskedReadout, TaskKey, TaskRequest

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
    return metadata([(AskedReadout(tuple(ids)),) for ids in tokens])


def metadata(readouts):
    """Of requests of one token each that ask for these readouts."""
    asked = [TaskRequest(readouts=of_request).extra_kwargs() for of_request in readouts]
    cursor = SimpleNamespace(last_token_indices_gpu=torch.arange(len(asked)))
    return SimpleNamespace(
        get_pooling_cursor=lambda: cursor,
        pooling_params=[PoolingParams(task="classify", extra_kwargs=one) for one in asked],
        tasks=["classify"] * len(asked),
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


FEW, MANY, LOST = (TaskKey(digit * 64) for digit in "120")
ROWS = {task: random(count, HIDDEN, seed=count) for task, count in ((FEW, 3), (MANY, 70))}


def with_rows():
    """A pooler whose label rows are those of two tasks, and no others."""
    rows = LabelRows(100, HIDDEN, torch.device("cpu"), 100, ROWS.get)
    return LabelPooler(label_logits, rows, VOCABULARY)


def mixed_readouts(requests, seed=0):
    """Requests of no readout up to five, of few tokens and many, some with rows, a few of which
    nobody has."""
    generator = np.random.default_rng(seed)

    def readout():
        tokens = generator.choice(VOCABULARY, generator.integers(0, 60), replace=False).tolist()
        task, rows = [(None, 0), (None, 0), (FEW, 3), (MANY, 70), (LOST, 2)][generator.integers(5)]
        return AskedReadout(tuple(tokens), rows, task)

    return [tuple(readout() for _ in range(generator.integers(0, 6))) for _ in range(requests)]


@pytest.mark.parametrize("cells", [1, 300, 1 << 22])
def test_readouts_of_a_request_are_scored_as_each_alone(cells, monkeypatch):
    """However many of them are padded to the longest together."""
    readouts, hidden = mixed_readouts(REQUESTS), random(REQUESTS, HIDDEN)
    alone = [
        [with_rows()(state[None], metadata([(one,)]))[0, : one.scores] for one in of_request]
        for state, of_request in zip(hidden, readouts, strict=True)
    ]
    monkeypatch.setattr("ifedicl_serve.plugin.label_pooler.CELLS_AT_ONCE", cells)
    together = with_rows()(hidden, metadata(readouts))
    assert together.dtype == torch.float32
    for found, expected in zip(together, alone, strict=True):
        own = torch.cat([*expected, torch.empty(0)])
        torch.testing.assert_close(found[: len(own)], own, equal_nan=True)
        padding = found[len(own) :]
        assert (padding == -torch.inf).all() if expected else padding.isnan().all()


def test_what_a_readout_lacks_harms_none_beside_it():
    """Rows that cannot be loaded, and a token that is none."""
    readouts = (
        AskedReadout((1, 2), 2, LOST),
        AskedReadout((1, 2), 3, FEW),
        AskedReadout((1, VOCABULARY)),
    )
    (scores,) = with_rows()(random(1, HIDDEN), metadata([readouts]))
    assert scores.isnan().tolist() == [False] * 2 + [True] * 2 + [False] * 5 + [True] * 2


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
