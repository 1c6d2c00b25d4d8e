"""vLLM's V1 model runner (CPU, and GPU with VLLM_USE_V2_MODEL_RUNNER=0) has no per-batch hook."""

from functools import wraps
from typing import Any

from ifedicl_serve.plugin.request import TaskRequest


def assign_slots_in_v1_runner() -> None:
    """Wrap `GPUModelRunner._prepare_inputs` to point each token at its request's slot.

    Upstream: it lays out the batch (vllm/v1/worker/gpu_model_runner.py); when it returns,
    `input_batch` is in final row order, `num_computed_tokens_cpu` is what it was before the batch,
    and the forward pass has not begun.
    Why: only there are row order and token counts known, and V1 offers no extension point.
    Delete when the CPU runner is V2: there `runner_v2` uses the model's own hook.
    """
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    original = GPUModelRunner._prepare_inputs
    if hasattr(original, "assigns_task_slots"):
        return

    @wraps(original)
    def prepare_inputs(self: Any, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        prepared = original(self, scheduler_output, num_scheduled_tokens)
        task_slots = getattr(self.get_model(), "task_slots", None)
        if task_slots is not None:
            requests = [self.requests[request_id] for request_id in self.input_batch.req_ids]
            adaptations = [
                TaskRequest.of_request(request).adaptation(request.num_prompt_tokens)
                for request in requests
            ]
            computed = self.input_batch.num_computed_tokens_cpu[: len(requests)]
            task_slots.assign(adaptations, computed, num_scheduled_tokens)
        return prepared

    prepare_inputs.assigns_task_slots = True  # type: ignore[attr-defined]
    GPUModelRunner._prepare_inputs = prepare_inputs
