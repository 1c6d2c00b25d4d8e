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

from tests.engine.conftest import engine, own_scores, request, run


def main() -> None:
    """Read a job from standard input; write scores of each batch, tokens that were cached, and the
    runner's module."""
    job = json.load(sys.stdin)
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: False))
    with engine(Path(job["model"]), Path(job["tasks"]), **job["options"]) as llm:
        (runner,) = llm.collective_rpc(lambda worker: type(worker.model_runner).__module__)
        answers, cached = [], []
        for batch in job["batches"]:
            requests = [request(*asked) for asked in batch]
            outputs = run(llm, requests)
            cached.append([output.num_cached_tokens for output in outputs])
            asked = [who for _, who in requests]
            answers.append([own_scores(*of).tolist() for of in zip(outputs, asked, strict=True)])
    told = {"runner": runner, "scores": answers, "cached": cached}
    Path(sys.argv[1]).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
