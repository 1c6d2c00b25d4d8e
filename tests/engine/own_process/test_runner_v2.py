"""The V2 runner: its bookkeeping, called by hand with a recording slot table, and a whole engine
whose Triton kernels are interpreted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ifedicl_serve.plugin.request import Adaptation, TaskKey, TaskRequest

X, Y = "1" * 64, "2" * 64


class RecordingSlots:
    def __init__(self):
        self.calls = []

    def assign(self, adaptations, computed, counts):
        self.calls.append((list(adaptations), computed.tolist(), counts.tolist()))


@pytest.fixture
def state():
    from ifedicl_serve.plugin.runner_v2 import TaskModelState

    state = TaskModelState.__new__(TaskModelState)
    state._adaptations = {}
    state.model = SimpleNamespace(task_slots=RecordingSlots())
    state.rope_state = state.prompt_embeds_state = None
    state.supports_mm_inputs = False
    return state


def new_request(request_id, digest, tail=None):
    asked = TaskRequest(digest and TaskKey(digest), tail=tail)
    params = SimpleNamespace(extra_kwargs=asked.extra_kwargs())
    return SimpleNamespace(
        req_id=request_id, pooling_params=params, sampling_params=None, prompt_len=10
    )


def batch(request_ids, computed, counts):
    return SimpleNamespace(
        req_ids=request_ids,
        num_computed_tokens_np=np.array(computed),
        num_scheduled_tokens=np.array(counts),
    )


def test_a_batch_points_each_requests_tokens_at_its_task_in_batch_order(state):
    for index, (name, digest, tail) in enumerate([("a", X, None), ("b", Y, 3), ("c", None, None)]):
        state.add_request(index, new_request(name, digest, tail))
    state.prepare_inputs(batch(["c", "a", "b"], [0, 4, 6], [3, 5, 2]), None)
    adaptations = [Adaptation(), Adaptation(TaskKey(X)), Adaptation(TaskKey(Y), 7)]
    assert state.model.task_slots.calls == [(adaptations, [0, 4, 6], [3, 5, 2])]


def test_dummy_runs_and_removed_requests_read_the_identity(state):
    state.add_request(0, new_request("a", X))
    state.remove_request("a")
    state.prepare_inputs(batch(["a", "dummy"], [0, 0], [4, 4]), None)
    assert state.model.task_slots.calls == [([Adaptation()] * 2, [0, 0], [4, 4])]


def test_the_adapted_models_hand_this_state_to_the_v2_runner():
    from vllm.v1.worker.gpu.model_states import resolve_model_state_cls

    from ifedicl_serve.plugin.models import IFedICLLlamaForCausalLM
    from ifedicl_serve.plugin.runner_v2 import TaskModelState

    model = IFedICLLlamaForCausalLM.__new__(IFedICLLlamaForCausalLM)
    assert resolve_model_state_cls(None, model) is TaskModelState


def test_an_engine_on_the_v2_runner_agrees_with_the_hooked_model(models, case, tmp_path):
    """Chunked prompts, asked twice, so that the prefix cache answers; an unknown task; and tasks of
    a tail, which share a text in the step that computes it."""
    first, second, third, _ = case.digests
    lost = [(case.prompts[0], "0" * 64, case.labels, 3, 4)]
    batch = case.requests(first, second, None)
    text = np.random.default_rng(0).integers(100, 1000, 40).tolist()
    shared = [(text, digest, case.labels, 5, 0) for digest in (second, third, None, second)]
    options = {"max_num_batched_tokens": 64, "enable_prefix_caching": True}
    job = {"model": str(models["llama"]), "tasks": str(case.folder), "options": options}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.own_process.v2_engine", str(tmp_path / "answers")],
        input=json.dumps(job | {"batches": [batch, batch + lost, shared]}),
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    answers = json.loads((tmp_path / "answers").read_text())
    assert answers["runner"] == "vllm.v1.worker.cpu.model_runner"
    cold, (*warm, failed), (tail, other_tail, none, again) = answers["scores"]
    for served in (cold, warm):
        expected = case.answers(first, second, None)
        np.testing.assert_allclose(np.concatenate(served), expected, atol=1e-4)
    assert np.isnan(failed).all()
    assert answers["cached"][2] == [0, 32, 32, 32]
    np.testing.assert_allclose(again, tail, atol=1e-5)
    assert not np.allclose(other_tail, tail, atol=1e-2) and not np.allclose(none, tail, atol=1e-2)
