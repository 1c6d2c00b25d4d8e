"""The plugin's entry point, which vLLM calls in every process and may call again."""

from vllm import ModelRegistry
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.plugin import register


def patched() -> tuple:
    return (
        Request.from_engine_core_request.__func__,
        GPUModelRunner._prepare_inputs,
        Scheduler.update_from_output,
    )


def test_registering_twice_is_registering_once():
    register()
    once = patched()
    assert all(not hasattr(function.__wrapped__, "__wrapped__") for function in once)
    assert set(ADAPTED_ARCHITECTURES.values()) <= set(ModelRegistry.get_supported_archs())
    register()
    assert patched() == once
