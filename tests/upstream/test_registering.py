"""The plugin is registered in every vLLM process, and in some more than once."""

from tests.test_imports import python


def test_registering_twice_is_registering_once():
    python(
        """
from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.plugin import register
register()
from vllm import ModelRegistry
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

def patched():
    return (
        Request.from_engine_core_request.__func__,
        GPUModelRunner._prepare_inputs,
        Scheduler.update_from_output,
    )

once = patched()
assert all(not hasattr(function.__wrapped__, "__wrapped__") for function in once)
assert set(ADAPTED_ARCHITECTURES.values()) <= set(ModelRegistry.get_supported_archs())
register()
assert patched() == once
"""
    )
