"""What a readout is fitted to, from the engine that serves and from calibration's hooked model."""

import numpy as np
import pytest

from api.classify.engine import scores_of_tasks, split_scores
from api.making.features import feature_requests
from bench.common.random_tasks import random_task
from calibration.model.load import load_model
from calibration.model.score import label_features
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.rungs import BARE_RUNGS
from ifedicl_serve.fitting.task import fit_task
from ifedicl_serve.tasks.task import Task
from tests.engine.conftest import engine, run
from tests.engine.in_process.test_agreement import LABELS, TOLERANCE, VLLM_DTYPE

ROWS = 40
TEXTS = [f"question {n}: " + "why was my card declined? " * (n % 5) for n in range(ROWS)]


def on_engine(path, folder, task, prompts, dtype) -> Features:
    """Read as `api` does, all prompts in one batch beside requests of the task itself."""
    requests = feature_requests(task, task.spec.hidden_size)
    asked = [
        ({"prompt_token_ids": [*prompt, *one.path]}, one.asked)
        for prompt in prompts
        for one in requests
    ]
    with engine(path, folder, dtype=dtype) as llm:
        answers = [output.outputs.data.numpy() for output in run(llm, asked)]
    split = [
        split_scores(request, answer) for (_, request), answer in zip(asked, answers, strict=True)
    ]
    rows = [
        scores_of_tasks(requests, split[start : start + len(requests)])[0]
        for start in range(0, len(split), len(requests))
    ]
    return Features(
        np.array([task.trie.log_probs(row.log_probs) for row in rows]),
        np.array([row.hidden for row in rows]),
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_task_fitted_to_what_the_engine_says_is_that_of_the_hooked_model(
    models, tmp_path, family, dtype
):
    path = models[family]
    wanted = {"labels": LABELS, "fit": "none", "readout": "none"}
    artifact = random_task(path, tmp_path / "tasks" / "bare", 5, **wanted)
    model = load_model(str(path), dtype=dtype, device="cpu")
    task = Task.of(artifact, model.tokenizer, tmp_path)
    prompts = [task.spec.prompt.render(text) for text in TEXTS]
    expected = label_features(model, prompts, task.trie)
    tokens = [token_ids(model.tokenizer, prompt) for prompt in prompts]
    found = on_engine(path, tmp_path / "tasks", task, tokens, VLLM_DTYPE[dtype])
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=tolerance)
    size = np.abs(expected.hidden).max()
    np.testing.assert_allclose(found.hidden, expected.hidden, atol=tolerance * size)
    labels, folds = np.arange(ROWS) % len(LABELS), np.arange(ROWS) % 5
    ours, theirs = (fit_task(one, labels, folds, BARE_RUNGS[2:]) for one in (found, expected))
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=tolerance)
