"""Two ranks answer as the hooked Hugging Face model does, and one that fails fails its requests.

Prompts are chunked, and asked twice, so that the prefix cache answers.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ifedicl_serve.errors import ModelError
from ifedicl_serve.tasks.index import ArtifactIndex
from tests.engine.conftest import engine, request, scores

TOLERANCE = 1e-4  # as in test_agreement

LAYOUTS = {
    "tensor": {"tensor_parallel_size": 2},
    # Not eager (see the last test). Mode 2 is how vLLM compiles on CPU, but without inductor.
    "pipeline": {
        "pipeline_parallel_size": 2,
        "enforce_eager": False,
        "compilation_config": {"mode": 2, "backend": "eager"},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_agree_with_the_hooked_model_and_fail_together(models, case, layout, monkeypatch):
    first, second, third, fourth = case.digests
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # a core for each rank
    options = LAYOUTS[layout] | {"max_num_batched_tokens": 64, "enable_prefix_caching": True}

    def asked(*digests) -> list[np.ndarray]:
        return scores(llm, [request(*each) for each in case.requests(*digests)])

    with engine(models["llama"], case.folder, **options) as llm:
        cold, warm = asked(first, second, None), asked(first, second, None)
        lost = {}
        for rank, digest in enumerate((third, fourth)):
            llm.collective_rpc(blind, args=(rank, case.folder))
            lost[digest] = asked(digest, first, None)
    for served in (cold, warm):
        expected = case.answers(first, second, None)
        np.testing.assert_allclose(np.concatenate(served), expected, atol=TOLERANCE)
    for answers in lost.values():
        failed, served = answers[: len(case.prompts)], answers[len(case.prompts) :]
        # The rank that answers may have the label rows of a task that another rank lost.
        assert all(np.isnan(answer[: len(case.labels)]).all() for answer in failed)
        expected = case.answers(first, None)
        np.testing.assert_allclose(np.concatenate(served), expected, atol=TOLERANCE)


def blind(worker, rank: int, tasks: Path) -> None:
    """One rank's folder of tasks is gone, as a network filesystem may be for one machine."""
    folder = Path("/nonexistent") if worker.rank == rank else tasks
    worker.model_runner.get_model().task_slots.artifacts.index = ArtifactIndex(folder)


def test_uncompiled_pipeline_stages_are_refused_on_cpu():
    """vLLM has no buffers between stages there: the first request fails an assertion of its own."""
    from vllm.config import CompilationMode

    from ifedicl_serve.plugin.models import _refuse_uncompiled_stages

    def config(stages, mode):
        return SimpleNamespace(
            parallel_config=SimpleNamespace(pipeline_parallel_size=stages),
            compilation_config=SimpleNamespace(mode=mode),
        )

    _refuse_uncompiled_stages(config(1, CompilationMode.NONE))
    _refuse_uncompiled_stages(config(2, CompilationMode.DYNAMO_TRACE_ONCE))
    with pytest.raises(ModelError, match="size is 2 and .* serve without --enforce-eager"):
        _refuse_uncompiled_stages(config(2, CompilationMode.NONE))


def test_connectors_that_keep_kv_outside_of_the_engine_are_refused():
    from vllm.config import KVTransferConfig

    from ifedicl_serve.plugin.models import _refuse_outside_kv

    connector = KVTransferConfig(kv_connector="ExampleConnector", kv_role="kv_both")
    _refuse_outside_kv(SimpleNamespace(kv_transfer_config=None))
    with pytest.raises(ModelError, match="ExampleConnector could give a task the KV of another"):
        _refuse_outside_kv(SimpleNamespace(kv_transfer_config=connector))
