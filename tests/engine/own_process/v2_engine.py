"""An engine on vLLM's V2 runner, on CPU: a script, as it must run before vllm is imported.

The V2 runner is built of Triton kernels, and no package compiles Triton for CPUs. Triton's own
interpreter runs them, and vLLM uses Triton once a CPU backend is listed among Triton's.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from triton.backends import backends

from tests.engine.conftest import engine, request, scores


def main() -> None:
    """Read a job from standard input; write scores of each batch and the runner's module."""
    job = json.load(sys.stdin)
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: False))
    with engine(Path(job["model"]), Path(job["tasks"]), **job["options"]) as llm:
        (runner,) = llm.collective_rpc(lambda worker: type(worker.model_runner).__module__)
        answers = [
            [row.tolist() for row in scores(llm, [request(*asked) for asked in batch])]
            for batch in job["batches"]
        ]
    Path(sys.argv[1]).write_text(json.dumps({"runner": runner, "scores": answers}))


if __name__ == "__main__":
    main()
