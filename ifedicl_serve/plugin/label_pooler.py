"""Scores a request's label tokens from its last hidden state: no vocabulary product, no sampler.

The union of the batch's label tokens is scored in one small matrix product (in several, of bounded
memory, if it is large); each request then takes the softmax over its own. A batch is a handful of
kernels and one copy to the host, however many requests and label sets it mixes. Tasks that score
their labels with rows of their own have a few more (`label_rows`).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from vllm.model_executor.layers.pooler import DispatchPooler
from vllm.model_executor.layers.pooler.abstract import Pooler, PoolerOutput
from vllm.tasks import PoolingTask
from vllm.v1.pool.metadata import PoolingMetadata

from ifedicl_serve.plugin.label_rows import LabelRows
from ifedicl_serve.plugin.request import TaskRequest

PADDING = -1


class LabelPooler(Pooler):
    """Log-probabilities [requests, most labels] among each request's label tokens, float32.

    Behind its own a request has the scores of its task's label rows, if it wants them. Rows are
    padded with -inf (no probability) behind that. A request whose artifact could not be loaded has
    hidden states, and so scores, of NaN; one that names no tokens gets NaN too (vLLM's profiling
    run, or a raw request without ours). `label_rows` is None on a pipeline stage without answers.
    Up to `at_once` tokens are scored at once.
    """

    def __init__(
        self,
        label_logits: Callable[[Tensor, Tensor], Tensor],
        label_rows: LabelRows | None,
        at_once: int,
    ) -> None:
        super().__init__()
        self.label_logits = label_logits
        self.label_rows = label_rows
        self.at_once = at_once

    def get_supported_tasks(self) -> set[PoolingTask]:
        return {"classify"}

    def forward(self, hidden_states: Tensor, pooling_metadata: PoolingMetadata) -> Tensor:
        """Score hidden states [tokens, hidden] of a batch, one row per request."""
        last = hidden_states[pooling_metadata.get_pooling_cursor().last_token_indices_gpu]
        asked = [TaskRequest.of(params) for params in pooling_metadata.pooling_params]
        if not any(one.label_token_ids for one in asked):
            self._take_as_much_as_a_batch_may(last)
        log_probs = self._label_log_probs(last, [one.label_token_ids for one in asked])
        if self.label_rows is None or not any(one.label_rows for one in asked):
            return log_probs
        rows = self.label_rows.scores(last, [(one.key, one.label_rows) for one in asked])
        return _joined(log_probs, rows, [len(one.label_token_ids) for one in asked])

    def _take_as_much_as_a_batch_may(self, last: Tensor) -> None:
        """So that vLLM's profiling run, whose requests name no tokens, counts it."""
        self.label_logits(last, torch.arange(self.at_once, device=last.device))

    def _label_log_probs(self, last: Tensor, tokens: list[tuple[int, ...]]) -> Tensor:
        ids = _padded(tokens)
        union, columns = np.unique(ids, return_inverse=True)
        columns = columns.reshape(ids.shape)

        def on_device(values: object) -> Tensor:
            return torch.as_tensor(values).to(last.device, non_blocking=True)

        chosen = torch.full(ids.shape, -torch.inf, dtype=torch.float32, device=last.device)
        first = 0
        for part in np.array_split(np.maximum(union, 0), -(-len(union) // self.at_once)):
            here = (ids != PADDING) & (first <= columns) & (columns < first + len(part))
            logits = self.label_logits(last, on_device(part))
            scores = logits.gather(1, on_device(np.where(here, columns - first, 0)))
            chosen = torch.where(on_device(here), scores, chosen)
            first += len(part)
        return chosen.log_softmax(dim=-1)


def _padded(rows: list[tuple[int, ...]]) -> np.ndarray:
    """Token ids [requests, most labels], int64, with `PADDING` behind the shorter rows."""
    padded = np.full((len(rows), max(1, *map(len, rows))), PADDING, dtype=np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _joined(log_probs: Tensor, row_scores: Tensor, labels: list[int]) -> Tensor:
    """Each request's row scores directly behind its own log-probabilities, of so many labels; all
    padding behind both."""
    most, rows = log_probs.shape[1], row_scores.shape[1]
    own, column = np.array(labels)[:, None], np.arange(most + rows)
    behind = np.where(column < own + rows, column + most - own, column - rows)
    source = torch.from_numpy(np.where(column < own, column, behind))
    both = torch.cat([log_probs, row_scores], dim=1)
    return both.gather(1, source.to(both.device, non_blocking=True))


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
