"""Scores a request's label tokens from its last hidden state: no vocabulary product, no sampler.

The union of the batch's label tokens is scored in one small matrix product; each request
then takes the softmax over its own.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from vllm.model_executor.layers.pooler.abstract import Pooler
from vllm.tasks import PoolingTask
from vllm.v1.pool.metadata import PoolingMetadata

from ifedicl_serve.plugin.request import TaskRequest


class LabelPooler(Pooler):
    """Log-probabilities [tokens] among each request's label tokens, float32.

    A request whose artifact could not be loaded gets NaN, never another task's scores; one
    that names no tokens gets NaN too (vLLM's profiling run, or a raw request without ours).
    """

    def __init__(
        self,
        label_logits: Callable[[Tensor, Tensor], Tensor],
        is_resident: Callable[[str], bool],
    ) -> None:
        super().__init__()
        self.label_logits = label_logits
        self.is_resident = is_resident

    def get_supported_tasks(self) -> set[PoolingTask]:
        return {"classify"}

    def forward(
        self, hidden_states: Tensor, pooling_metadata: PoolingMetadata
    ) -> list[Tensor | None]:
        """Score hidden states [tokens, hidden] of a batch, one result per request."""
        last = pooling_metadata.get_pooling_cursor().last_token_indices_gpu
        requests = [TaskRequest.of(params) for params in pooling_metadata.pooling_params]
        counts = [max(1, len(request.label_token_ids)) for request in requests]
        ids = np.concatenate([request.label_token_ids or (0,) for request in requests])
        rows = np.repeat(np.arange(len(requests)), counts)
        union, columns = np.unique(ids, return_inverse=True)
        device = hidden_states.device
        logits = self.label_logits(hidden_states[last], torch.from_numpy(union).to(device))
        chosen = logits[torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)]
        return [
            self._finished(request, scores)
            for request, scores in zip(requests, chosen.split(counts), strict=True)
        ]

    def _finished(self, request: TaskRequest, logits: Tensor) -> Tensor:
        available = request.digest is None or self.is_resident(request.digest)
        if not (available and request.label_token_ids):
            return torch.full_like(logits, torch.nan)
        return torch.log_softmax(logits, dim=-1)
