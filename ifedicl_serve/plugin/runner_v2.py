"""vLLM's V2 model runner asks the model for its input preparation: no patch needed."""

from typing import Any

from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.states import RequestState

from ifedicl_serve.plugin.request import TaskKey, TaskRequest


class TaskModelState(DefaultModelState):
    """Remembers each request's task and points its tokens at the slot before every forward.

    Dummy runs (profiling, graph capture) name no request, so they read the identity; graphs
    capture the persistent buffer and replay whatever it then holds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tasks: dict[str, TaskKey | None] = {}

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        super().add_request(req_index, new_req_data)
        self._tasks[new_req_data.req_id] = TaskRequest.of_request(new_req_data).key

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self._tasks.pop(req_id, None)

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        tasks = [self._tasks.get(req_id) for req_id in input_batch.req_ids]
        self.model.task_slots.assign(tasks, input_batch.num_scheduled_tokens)
        return super().prepare_inputs(input_batch, req_states)
