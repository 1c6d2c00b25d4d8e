"""What an engine is asked of a task, and what its answers are taken for."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm import PoolingParams

from api.classify.engine import PoolingEngine, node_request, trie_scores
from ifedicl_serve.contract.artifact import save_artifact
from ifedicl_serve.plugin.request import TaskRequest
from ifedicl_serve.tasks.task import Task
from tests.ifedicl_serve.factory import make_rung, make_spec

LABELS = ("world news", "business", "world sports", "world", "business of the world")
PROMPT = [11, 12, 13]


@pytest.fixture
def make(tmp_path, tokenizer):
    def make(rung, **changes) -> Task:
        spec = make_spec(labels=LABELS, **changes)
        artifact = save_artifact(spec, make_rung(rung, spec), tmp_path / rung)
        return Task.of(artifact, tokenizer, tmp_path / rung, "generation")

    return make


class FakeClient:
    """Scores: where a request ends and, behind its tokens, a hundred more; padding behind both."""

    def __init__(self):
        self.asked = {}

    async def encode(self, prompt, params: PoolingParams, request_id, trace_headers):
        request = TaskRequest.of(params)
        ids = prompt["prompt_token_ids"]
        self.asked[tuple(ids)] = request
        tokens, rows = len(request.label_token_ids), request.label_rows
        scores = [*[len(ids)] * tokens, *[100 + len(ids)] * rows, *[-np.inf] * 3]
        data = torch.tensor(scores, dtype=torch.float32)
        yield SimpleNamespace(outputs=SimpleNamespace(data=data), num_cached_tokens=None)


def ask(task, adapted=True):
    client = FakeClient()
    scores = asyncio.run(trie_scores(PoolingEngine(client), task, PROMPT, adapted))
    return client.asked, scores


def test_label_rows_are_scored_once_where_labels_first_differ(make):
    task = make("channels+head")
    asked, scores = ask(task)
    root, *inner = task.trie.nodes
    assert len(inner) >= 2
    assert [asked[(*PROMPT, *node.path)].label_rows for node in inner] == [0] * len(inner)
    assert asked[(*PROMPT, *root.path)].label_rows == len(LABELS)
    assert scores.row_scores.tolist() == [103 + len(root.path)] * len(LABELS)
    ends = [3 + len(node.path) for node in task.trie.nodes for _ in node.children]
    assert scores.log_probs.tolist() == ends


def test_a_task_without_rows_has_no_row_scores(make):
    asked, scores = ask(make("coefficients+bias"))
    assert scores.row_scores is None
    assert {request.label_rows for request in asked.values()} == {0}


def test_the_tail_begins_at_the_same_token_for_every_node(make):
    task = make("channels", extent="tail")
    asked, _ = ask(task)
    starts = {request.adaptation(len(ids)).start for ids, request in asked.items()}
    assert starts == {max(0, len(PROMPT) - task.tail)}
    assert {request.tail for request in asked.values()} != {task.tail}


def test_all_tokens_are_adapted_without_an_extent(make):
    task = make("coefficients")
    request = node_request(task, task.trie.nodes[0])
    tokens = task.trie.nodes[0].children
    assert request == TaskRequest(task.digest, tokens, "generation", tail=None, label_rows=0)


def test_the_base_model_is_told_nothing_of_the_task(make):
    task = make("channels+head", extent="tail")
    asked, scores = ask(task, adapted=False)
    assert scores.row_scores is None
    for node in task.trie.nodes:
        assert asked[(*PROMPT, *node.path)] == TaskRequest(label_token_ids=node.children)
