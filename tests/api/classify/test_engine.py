"""What an engine is asked of a group of tasks, and what its answers are taken for."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm import PoolingParams

from api.classify.engine import (
    GenerationEngine,
    PoolingEngine,
    group_requests,
    key_of,
    split_scores,
    trie_scores,
)
from api.making.features import feature_requests
from api.observe.context import RequestContext, enter_request
from ifedicl_serve.contract.artifact import save_artifact
from ifedicl_serve.errors import InputError
from ifedicl_serve.plugin.request import (
    MAX_READOUTS,
    MAX_SCORES,
    AskedReadout,
    TaskKey,
    TaskRequest,
)
from ifedicl_serve.tasks.task import Task
from tests.ifedicl_serve.factory import NOTHING_ADAPTED, make_rung, make_spec

LABELS = ("world news", "business", "world sports", "world", "business of the world")
PROMPT = [11, 12, 13]


@pytest.fixture
def make(tmp_path, tokenizer):
    def make(rung, labels=LABELS, **changes) -> Task:
        spec = make_spec(labels=labels, **changes)
        artifact = save_artifact(spec, make_rung(rung, spec), tmp_path / rung)
        return Task.of(artifact, tokenizer, tmp_path / rung, "generation")

    return make


class FakeClient:
    """Scores: where a request ends and, behind a readout's tokens, a hundred more; a thousand more
    for each readout before it; padding behind all."""

    def __init__(self):
        self.asked, self.salts = [], []

    async def encode(self, prompt, params: PoolingParams, request_id, trace_headers):
        request = TaskRequest.of(params)
        self.salts.append(prompt.get("cache_salt"))
        ids = prompt["prompt_token_ids"]
        self.asked.append((tuple(ids), request))
        scores = []
        for before, readout in enumerate(request.readouts):
            end = 1000 * before + len(ids)
            scores += [end] * len(readout.label_token_ids) + [100 + end] * readout.label_rows
        data = torch.tensor([*scores, *[-np.inf] * 3], dtype=torch.float32)
        yield SimpleNamespace(outputs=SimpleNamespace(data=data), num_cached_tokens=None)


def ask_many(tasks, adapted=True):
    client = FakeClient()
    scores = asyncio.run(trie_scores(PoolingEngine(client), group_requests(tasks, adapted), PROMPT))
    return client.asked, scores


def ask(task, adapted=True):
    asked, (scores,) = ask_many([task], adapted)
    return {ids: request for ids, request in asked}, scores


def rows_asked(request):
    return [readout.label_rows for readout in request.readouts]


def test_label_rows_are_scored_once_where_labels_first_differ(make):
    task = make("channels+head")
    asked, scores = ask(task)
    root, *inner = task.trie.nodes
    assert len(inner) >= 2
    assert [rows_asked(asked[(*PROMPT, *node.path)]) for node in inner] == [[0]] * len(inner)
    assert rows_asked(asked[(*PROMPT, *root.path)]) == [len(LABELS)]
    assert scores.row_scores.tolist() == [103 + len(root.path)] * len(LABELS)
    ends = [3 + len(node.path) for node in task.trie.nodes for _ in node.children]
    assert scores.log_probs.tolist() == ends


def test_a_task_without_rows_has_no_row_scores(make):
    asked, scores = ask(make("coefficients+bias"))
    assert scores.row_scores is None
    assert sum(map(rows_asked, asked.values()), []) == [0] * len(asked)


def test_the_tail_begins_at_the_same_token_for_every_node(make):
    task = make("channels", extent="tail")
    asked, _ = ask(task)
    starts = {request.adaptation(len(ids)).start for ids, request in asked.items()}
    assert starts == {max(0, len(PROMPT) - task.tail)}
    assert {request.tail for request in asked.values()} != {task.tail}


def test_all_tokens_are_adapted_without_an_extent(make):
    task = make("coefficients")
    first = group_requests([task])[0]
    key, readout = TaskKey(task.digest, "generation"), AskedReadout(task.trie.nodes[0].children)
    assert first.asked == TaskRequest(key, (readout,), tail=None)


def test_the_base_model_is_told_nothing_of_the_task(make):
    task = make("channels+head", extent="tail")
    asked, scores = ask(task, adapted=False)
    assert scores.row_scores is None
    for node in task.trie.nodes:
        readout = AskedReadout(node.children)
        assert asked[(*PROMPT, *node.path)] == TaskRequest(readouts=(readout,))


# -- groups


def test_tasks_that_adapt_nothing_ask_as_the_base_model_does(make):
    """A worker needs nothing of one with a bias, and of the other its rows."""
    for rung in ("bias", "head"):
        task = make(rung, **NOTHING_ADAPTED)
        assert not task.adapts
        asked, _ = ask(task)
        assert {(request.task, request.tail) for request in asked.values()} == {(None, None)}
        of_rows = {readout.task for request in asked.values() for readout in request.readouts}
        assert of_rows == ({None} if rung == "bias" else {None, key_of(task)})


def test_a_hundred_tasks_cost_as_many_requests_as_one(make):
    """And each has what it has alone: of equal tries every node's readouts are one request."""
    tasks = [make("bias", **NOTHING_ADAPTED), make("head", **NOTHING_ADAPTED)] * 50
    asked, scores = ask_many(tasks)
    assert [ids for ids, _ in asked] == [(*PROMPT, *node.path) for node in tasks[0].trie.nodes]
    assert [len(request.readouts) for _, request in asked] == [100] * len(asked)
    for position, (task, found) in enumerate(zip(tasks, scores, strict=True)):
        _, alone = ask(task)
        assert (found.log_probs - 1000 * position).tolist() == alone.log_probs.tolist()
        if task.label_rows:
            assert (found.row_scores - 1000 * position).tolist() == alone.row_scores.tolist()


def test_tasks_whose_labels_differ_share_the_nodes_that_they_have_in_common(make):
    few = make("bias", labels=("card", "cash"), **NOTHING_ADAPTED)
    many = make("head", **NOTHING_ADAPTED)
    asked, scores = ask_many([few, many])
    assert len(few.trie.nodes) == 1 < len(many.trie.nodes) == len(asked)
    assert [len(request.readouts) for _, request in asked] == [2] + [1] * (len(asked) - 1)
    assert [len(found.log_probs) for found in scores] == [2, many.trie.paths.shape[1]]
    assert scores[0].row_scores is None and scores[1].row_scores.tolist() == [1103] * len(LABELS)


def test_more_readouts_than_a_request_holds_are_several(make):
    task = make("bias", labels=("card", "cash"), **NOTHING_ADAPTED)
    asked, scores = ask_many([task] * (2 * MAX_READOUTS + 1))
    sizes = [len(request.readouts) for _, request in asked]
    assert sizes == [MAX_READOUTS, MAX_READOUTS, 1]
    assert [found.log_probs[0] // 1000 for found in scores[MAX_READOUTS - 1 :][:2]] == [127, 0]


def test_more_scores_than_a_request_holds_are_several(make, monkeypatch):
    monkeypatch.setattr("api.classify.engine.MAX_SCORES", 10)
    task = make("head", **NOTHING_ADAPTED)
    each = len(task.trie.nodes[0].children) + len(LABELS)
    assert 5 < each <= 10 < MAX_SCORES
    asked, scores = ask_many([task] * 3)
    assert [ids for ids, _ in asked].count(tuple(PROMPT)) == 3
    assert [found.row_scores.tolist() for found in scores] == [[103] * len(LABELS)] * 3


def test_a_task_that_adapts_is_alone_in_its_group(make):
    """Beside others it would adapt them."""
    with pytest.raises(ValueError):
        group_requests([make("coefficients"), make("bias", **NOTHING_ADAPTED)])
    unadapted = group_requests([make("coefficients"), make("bias", **NOTHING_ADAPTED)], False)
    assert {request.asked.task for request in unadapted} == {None}


def test_hidden_states_are_told_behind_the_scores_and_only_by_a_pooling_engine(make):
    """A task is made of them, and over HTTP nobody can ask for one."""
    task = make("none")
    request, *inner = feature_requests(task, hidden_size=8)
    assert [readout.hidden_size for readout in request.asked.readouts] == [8]
    assert not any(readout.hidden_size for one in inner for readout in one.asked.readouts)
    numbers = np.arange(14, dtype=np.float32)
    (scores,) = split_scores(request.asked, numbers)
    tokens = len(task.trie.nodes[0].children)
    assert scores.row_scores is None
    np.testing.assert_array_equal(scores.log_probs, numbers[:tokens])
    np.testing.assert_array_equal(scores.hidden, numbers[tokens : tokens + 8])
    with pytest.raises(InputError, match="started with --runner pooling; send the examples there"):
        asyncio.run(GenerationEngine(None).token_scores([1], request.asked))


# -- tenants


def test_what_tasks_share_of_a_text_is_each_keys_own(make):
    """Where keys have tasks of their own; else it is everybody's."""
    task = make("bias", **NOTHING_ADAPTED)

    async def salts(tenant):
        enter_request(RequestContext(tenant=tenant))
        client = FakeClient()
        await trie_scores(PoolingEngine(client), group_requests([task]), PROMPT)
        return set(client.salts)

    of_each = [asyncio.run(salts(tenant)) for tenant in ("", "one", "another", "one")]
    assert of_each[0] == {None}
    assert of_each[1] == of_each[3] != of_each[2]
    assert [len(salts) for salts in of_each] == [1] * 4


def test_a_callers_own_salt_is_its_own_within_a_tenant():
    salts = [
        RequestContext(tenant=tenant).cache_salt(own)
        for tenant in ("", "one", "another")
        for own in (None, "a", "b")
    ]
    assert salts[:3] == [None, "a", "b"]
    assert len(set(salts)) == len(salts)
