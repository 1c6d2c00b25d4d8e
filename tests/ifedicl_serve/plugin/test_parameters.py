"""A task in vLLM's own parameters of a request."""

from types import SimpleNamespace

import pytest
from vllm import PoolingParams, SamplingParams

from ifedicl_serve.plugin.patches.malformed import replace_task
from ifedicl_serve.plugin.request import MALFORMED, AskedReadout, TaskKey, TaskRequest


@pytest.mark.parametrize("kind", ["pooling", "sampling"])
def test_vllms_parameters_of_either_kind_carry_it(kind):
    asked = TaskRequest(TaskKey("d" * 64, "g"), (AskedReadout((5,), 2),), tail=3)
    pooling = PoolingParams(extra_kwargs=asked.extra_kwargs()) if kind == "pooling" else None
    sampling = SamplingParams(extra_args=asked.extra_kwargs()) if kind == "sampling" else None
    request = SimpleNamespace(pooling_params=pooling, sampling_params=sampling)
    assert TaskRequest.of_request(request) == asked
    replace_task(request, TaskRequest(TaskKey(MALFORMED)))
    assert TaskRequest.of_request(request) == TaskRequest(TaskKey(MALFORMED))
