"""Scores a request's label tokens from its last hidden state: no vocabulary product, no sampler.

The union of the batch's label tokens is scored in one small matrix product; each request
then takes the softmax over its own. A batch is a handful of kernels and one copy to the host,
however many requests and label sets it mixes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from vllm.model_executor.layers.pooler import DispatchPooler
from vllm.model_executor.layers.pooler.abstract import Pooler, PoolerOutput
from vllm.tasks import PoolingTask
from vllm.v1.pool.metadata import PoolingMetadata

from ifedicl_serve.plugin.request import TaskRequest

PADDING = -1


class LabelPooler(Pooler):
    """Log-probabilities [requests, most labels] among each request's label tokens, float32.

    Rows are padded with -inf (no probability) behind a request's own labels. A request whose
    artifact could not be loaded has hidden states, and so scores, of NaN; one that names no
    tokens gets NaN too (vLLM's profiling run, or a raw request without ours).
    """

    def __init__(self, label_logits: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.label_logits = label_logits

    def get_supported_tasks(self) -> set[PoolingTask]:
        return {"classify"}

    def forward(self, hidden_states: Tensor, pooling_metadata: PoolingMetadata) -> Tensor:
        """Score hidden states [tokens, hidden] of a batch, one row per request."""
        last = pooling_metadata.get_pooling_cursor().last_token_indices_gpu
        rows = [
            TaskRequest.of(params).label_token_ids for params in pooling_metadata.pooling_params
        ]
        ids = _padded(rows)
        union, columns = np.unique(ids, return_inverse=True)

        def on_device(values: object) -> Tensor:
            return torch.as_tensor(values).to(hidden_states.device, non_blocking=True)

        logits = self.label_logits(hidden_states[last], on_device(np.maximum(union, 0)))
        chosen = logits.gather(1, on_device(columns.reshape(ids.shape)))
        return chosen.masked_fill(on_device(ids == PADDING), -torch.inf).log_softmax(dim=-1)


def _padded(rows: list[tuple[int, ...]]) -> np.ndarray:
    """Token ids [requests, most labels], int64, with `PADDING` behind the shorter rows."""
    padded = np.full((len(rows), max(1, *map(len, rows))), PADDING, dtype=np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


class TaskPooler(DispatchPooler):
    """Label scores, and embeddings for whoever asks for those instead."""

    def forward(self, hidden_states: Tensor, pooling_metadata: PoolingMetadata) -> PoolerOutput:
        """As `DispatchPooler`, but a batch of one kind stays one tensor.

        vLLM copies a tensor to the host at once, and a list one request at a time. Its own does so
        too from 0.33 on: this class goes with the support of 0.32.
        """
        kinds = set(pooling_metadata.tasks)
        if len(kinds) == 1:
            return self.poolers_by_task[kinds.pop()](hidden_states, pooling_metadata)
        return super().forward(hidden_states, pooling_metadata)
