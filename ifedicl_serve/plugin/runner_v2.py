"""vLLM's V2 model runner asks the model for its input preparation: no patch needed."""

from typing import Any

from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.states import RequestState

from ifedicl_serve.plugin.request import Adaptation, TaskRequest


class TaskModelState(DefaultModelState):
    """Remembers each request's task and points its tokens at the slot before every forward.

    Before a prompt is computed whole, what vLLM counts as computed is exact; later it may be too
    many, which tells the same: all that follows a prompt is adapted.

    Dummy runs (profiling, graph capture) name no request, so they read the identity; graphs
    capture the persistent buffer and replay whatever it then holds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._adaptations: dict[str, Adaptation] = {}

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        super().add_request(req_index, new_req_data)
        asked = TaskRequest.of_request(new_req_data)
        self._adaptations[new_req_data.req_id] = asked.adaptation(new_req_data.prompt_len)

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self._adaptations.pop(req_id, None)

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        adaptations = [self._adaptations.get(name, Adaptation()) for name in input_batch.req_ids]
        self.model.task_slots.assign(
            adaptations, input_batch.num_computed_tokens_np, input_batch.num_scheduled_tokens
        )
        return super().prepare_inputs(input_batch, req_states)
