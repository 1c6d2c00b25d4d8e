"""What vLLM does for every engine is done once for all of them: they share this process."""

import gc
from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def once():
    """Of the four seconds that a tiny engine takes from its start to its end these are three.

    vLLM collects garbage nine times, and each time walks all that torch and vllm have made. It
    inspects a class it knows by name in a process of its own, to keep CUDA out of this one. And
    it looks for Triton kernels in every module there is.
    """
    from vllm import LLM  # noqa: F401  what it imports is there before the heap is frozen
    from vllm.model_executor.models import registry
    from vllm.platforms.cpu import CpuPlatform

    find_kernels = cache(CpuPlatform.register_triton_kernel_overrides)
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: None)  # so that an engine is collected in the end,
        patch.setattr(gc, "unfreeze", lambda: None)  # and what was there before it is not walked
        patch.setattr(registry, "_run_in_subprocess", lambda inspect: inspect())
        patch.setattr(CpuPlatform, "register_triton_kernel_overrides", staticmethod(find_kernels))
        yield
    gc.unfreeze()
