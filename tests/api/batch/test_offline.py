"""What a batch asks `LLM` for, and how its answers come back to rows and tasks."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from api.batch import offline
from api.batch.offline import BatchEngine
from api.classify.groups import parted
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import ModelIdentity
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.plugin.request import TaskRequest
from tests.ifedicl_serve.factory import NOTHING_ADAPTED, make_artifact

PROMPT = PromptTemplate.of("Review: {text}\nTopic:")
DEEP = ("world news", "business", "world sports", "world", "business of the world")
MAX_MODEL_LEN = 48


class FakeLLM:
    """Scores: a prompt's sum of tokens, and the token or row that they are of."""

    model_config = SimpleNamespace(max_model_len=MAX_MODEL_LEN)

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.resets, self.calls = 0, []

    def get_tokenizer(self):
        return self.tokenizer

    def reset_prefix_cache(self):
        self.resets += 1

    def encode(self, prompts, params, pooling_task, use_tqdm):
        self.calls.append(len(prompts))
        bar = use_tqdm()
        bar.update(len(prompts))
        bar.close()
        return [
            self._output(prompt["prompt_token_ids"], TaskRequest.of(one))
            for prompt, one in zip(prompts, params, strict=True)
        ]

    def _output(self, ids, request):
        scores = []
        for readout in request.readouts:
            numbers = [*readout.label_token_ids, *range(readout.label_rows)]
            scores += [sum(ids) + number for number in numbers]
        data = torch.tensor([*scores, -np.inf], dtype=torch.float32)
        return SimpleNamespace(outputs=SimpleNamespace(data=data))


@pytest.fixture
def engine(tokenizer, tmp_path, monkeypatch):
    """Three tasks of one prompt; the labels of `deep` leave a token less to a text."""
    monkeypatch.setattr(ModelIdentity, "refuse_other_tokenizer", lambda self, tokenizer: None)
    nothing = {"prompt": PROMPT, **NOTHING_ADAPTED}
    make_artifact(tmp_path / "flat", name="flat", rung="bias", **nothing)
    make_artifact(tmp_path / "mood", name="mood", rung="head", labels=("sad", "glad"), **nothing)
    make_artifact(tmp_path / "deep", name="deep", rung="head", labels=DEEP, **nothing)
    artifacts = [load_artifact(tmp_path / name) for name in ("flat", "deep", "mood")]
    return BatchEngine(FakeLLM(tokenizer), artifacts, Path(tmp_path))


@pytest.mark.parametrize("truncate", [False, True])
def test_rows_come_back_in_order_also_where_tasks_part_for_some(engine, tokenizer, truncate):
    just = " good" * (MAX_MODEL_LEN - len(token_ids(tokenizer, PROMPT.render(""))))
    texts = ["no", " good" * 100, "a b", just, "yes"] * 3
    encoded = engine.prompts.encode_for(engine.tasks, texts, truncate)
    rows = [[ids if isinstance(ids, list) else str(ids) for ids in row] for row in encoded]
    assert len(parted(engine.groups, rows[0])) == 1 < len(parted(engine.groups, rows[3]))
    done = []
    scores = engine.scores(rows, done.append)
    assert sum(done) == pytest.approx(len(rows))
    for place, (task, (log_probs, of_rows)) in enumerate(zip(engine.tasks, scores, strict=True)):
        prompts = [row[place] for row in rows if not isinstance(row[place], str)]
        expected = [
            [
                sum(ids) + sum(node.path) + token
                for node in task.trie.nodes
                for token in node.children
            ]
            for ids in prompts
        ]
        np.testing.assert_array_equal(log_probs, expected)
        if task.label_rows:
            labels = np.arange(task.label_rows)
            np.testing.assert_array_equal(of_rows, [sum(ids) + labels for ids in prompts])
        else:
            assert of_rows is None


def test_a_chunk_is_encoded_in_slices_and_the_cache_reset_once(engine, monkeypatch):
    each = sum(len(engine.requests(group)) for group in engine.groups)
    monkeypatch.setattr(offline, "REQUESTS_AT_ONCE", 4 * each)
    rows = engine.prompts.encode_for(engine.tasks, ["no"] * 10, False)
    engine.scores(rows, lambda rows: None)
    assert len(engine.groups) == 1
    assert engine.llm.calls == [4 * each, 4 * each, 2 * each]
    assert engine.llm.resets == 1


def test_rows_without_a_prompt_are_done_all_the_same(engine):
    done = []
    scores = engine.scores([["why"] * 3] * 2, done.append)
    assert [log_probs.shape[0] for log_probs, _ in scores] == [0, 0, 0]
    assert done == [2] and engine.llm.calls == []
