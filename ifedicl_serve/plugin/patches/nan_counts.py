"""NaN in logits, per request: how a worker tells the scheduler that a task could not be loaded."""

import os

from ifedicl_serve.errors import ModelError

RAISE = "VLLM_RAISE_ON_LOGIT_NANS"


def count_nans_in_logits() -> None:
    """Set VLLM_COMPUTE_NANS_IN_LOGITS in a worker whose model generates. Raises ModelError where
    NaN would end the worker.

    Upstream: a worker counts NaN per request only if this variable is set. V1 reads it at every
    step (`_get_nans_in_logits`, vllm/v1/worker/gpu_model_runner.py), V2 when it makes its sampler,
    which is after the model (vllm/v1/worker/gpu/sample/sampler.py).
    Why: `failures` ends the requests that the counts name. It is the worker that has a model, and
    whoever starts an engine need not know of this.
    Delete when a model runner's output can name requests that failed.
    """
    if os.environ.get(RAISE, "0") != "0":
        raise ModelError(
            f"{RAISE} is set, and a task that cannot be loaded answers with NaN: the first one "
            "would end the engine and all its requests; unset it"
        )
    os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] = "1"
