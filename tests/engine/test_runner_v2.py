"""The V2 runner's bookkeeping. The runner itself needs Triton, which has no CPU backend here, so
its calls are made by hand, with vLLM's own signatures and a recording slot table."""

from types import SimpleNamespace

import numpy as np
import pytest

from ifedicl_serve.plugin.request import TaskKey, TaskRequest


class RecordingSlots:
    def __init__(self):
        self.calls = []

    def assign(self, tasks, counts):
        self.calls.append((list(tasks), counts.tolist()))


@pytest.fixture
def state():
    from ifedicl_serve.plugin.runner_v2 import TaskModelState

    state = TaskModelState.__new__(TaskModelState)
    state._tasks = {}
    state.model = SimpleNamespace(task_slots=RecordingSlots())
    state.rope_state = state.prompt_embeds_state = None
    state.supports_mm_inputs = False
    return state


def new_request(request_id, digest):
    params = SimpleNamespace(extra_kwargs=TaskRequest(digest).extra_kwargs())
    return SimpleNamespace(req_id=request_id, pooling_params=params, sampling_params=None)


def batch(request_ids, counts):
    return SimpleNamespace(req_ids=request_ids, num_scheduled_tokens=np.array(counts))


def test_a_batch_points_each_requests_tokens_at_its_task_in_batch_order(state):
    for index, (name, digest) in enumerate([("a", "x"), ("b", "y"), ("c", None)]):
        state.add_request(index, new_request(name, digest))
    state.prepare_inputs(batch(["c", "a", "b"], [3, 5, 2]), None)
    assert state.model.task_slots.calls == [([None, TaskKey("x"), TaskKey("y")], [3, 5, 2])]


def test_dummy_runs_and_removed_requests_read_the_identity(state):
    state.add_request(0, new_request("a", "x"))
    state.remove_request("a")
    state.prepare_inputs(batch(["a", "dummy"], [4, 4]), None)
    assert state.model.task_slots.calls == [([None, None], [4, 4])]


def test_the_adapted_models_hand_this_state_to_the_v2_runner():
    from vllm.v1.worker.gpu.model_states import resolve_model_state_cls

    from ifedicl_serve.plugin.models import IFedICLLlamaForCausalLM
    from ifedicl_serve.plugin.runner_v2 import TaskModelState

    model = IFedICLLlamaForCausalLM.__new__(IFedICLLlamaForCausalLM)
    assert resolve_model_state_cls(None, model) is TaskModelState
