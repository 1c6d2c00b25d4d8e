"""Scores a request's label tokens from its last hidden state: no vocabulary product, no sampler.

The union of the batch's label tokens is scored in one small matrix product (in several, of bounded
memory, if it is large); each readout then takes the softmax over its own. A batch is a handful of
kernels and one copy to the host, however many requests, readouts and label sets it mixes. Tasks
that score their labels with rows of their own have a few more (`label_rows`).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from vllm.model_executor.layers.pooler import DispatchPooler
from vllm.model_executor.layers.pooler.abstract import Pooler, PoolerOutput
from vllm.tasks import PoolingTask
from vllm.v1.pool.metadata import PoolingMetadata

from ifedicl_serve.plugin.label_rows import LabelRows
from ifedicl_serve.plugin.request import AskedReadout, TaskRequest

PADDING = -1
CELLS_AT_ONCE = 1 << 22  # of readouts padded to the longest: 16 MB of scores
NOTHING = AskedReadout(())


class LabelPooler(Pooler):
    """Scores [requests, most scores], float32: those of each request's readouts, one behind the
    other, and of a readout the log-probabilities among its label tokens, then its label rows', then
    the hidden state that all are made of, if it asks for that.

    Rows are padded with -inf (no probability) behind that. A request whose task could not be loaded
    has hidden states, and so scores, of NaN; one that names no readout gets NaN too (vLLM's
    profiling run, or a raw request without ours). `label_rows` is None on a pipeline stage without
    answers. Up to `at_once` tokens are scored at once.
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
        if not any(one.readouts for one in asked):
            self._take_as_much_as_a_batch_may(last)
        of_requests = [one.readouts or (NOTHING,) for one in asked]
        readouts = list(chain.from_iterable(of_requests))
        owners = np.repeat(np.arange(len(asked)), [len(of) for of in of_requests])
        lengths = np.array([one.lengths for one in readouts])
        if len(readouts) == len(asked) and not lengths[:, 1:].any():
            return self._label_log_probs(last, readouts, owners)
        scores = [
            self._scores(last, readouts[part], owners[part], lengths[part])
            for part in _parts(lengths)
        ]
        of_each = np.bincount(owners, lengths.sum(axis=1)).astype(np.int64)
        return _by_request(torch.cat(scores), of_each)

    def _take_as_much_as_a_batch_may(self, last: Tensor) -> None:
        """So that vLLM's profiling run, whose requests name no tokens, counts it."""
        self.label_logits(last, torch.arange(self.at_once, device=last.device))

    def _scores(
        self,
        last: Tensor,
        readouts: Sequence[AskedReadout],
        owners: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
    ) -> Tensor:
        """The scores of readouts, one behind the other, of the requests `owners`; `lengths`
        [readouts, 3] are theirs."""
        with_rows, with_states = bool(lengths[:, 1].any()), bool(lengths[:, 2].any())
        blocks = [self._label_log_probs(last, readouts, owners)]
        if with_rows:
            assert self.label_rows is not None  # only the stage that has them is asked
            wanted = [(one.task, one.label_rows) for one in readouts]
            blocks.append(self.label_rows.scores(last, owners, wanted))
        if with_states:
            blocks.append(_states(last, owners, lengths[:, 2]))
        return _behind_one_another(blocks, lengths[:, [True, with_rows, with_states]])

    def _label_log_probs(
        self, last: Tensor, readouts: Sequence[AskedReadout], owners: npt.NDArray[np.int64]
    ) -> Tensor:
        """[readouts, most tokens], padded with -inf."""
        # Equal requests were read into one object: its tokens are looked at once.
        _, first, which = np.unique(
            [id(one) for one in readouts], return_index=True, return_inverse=True
        )
        ids = _padded([readouts[index].label_token_ids for index in first])
        union, columns = np.unique(ids, return_inverse=True)
        ids, columns = ids[which], columns.reshape(ids.shape)[which]

        def on_device(values: object) -> Tensor:
            return torch.as_tensor(values).to(last.device, non_blocking=True)

        of_owners = on_device(owners[:, None])
        chosen = torch.full(ids.shape, -torch.inf, dtype=torch.float32, device=last.device)
        start = 0
        for part in np.array_split(np.maximum(union, 0), -(-len(union) // self.at_once)):
            here = (ids != PADDING) & (start <= columns) & (columns < start + len(part))
            logits = self.label_logits(last, on_device(part))
            scores = logits[of_owners, on_device(np.where(here, columns - start, 0))]
            chosen = torch.where(on_device(here), scores, chosen)
            start += len(part)
        return chosen.log_softmax(dim=-1)


def _states(last: Tensor, owners: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> Tensor:
    """Hidden states [readouts, largest size], float32, of readouts that ask for one of the model's
    size; NaN of others."""
    hidden_size = last.shape[1]
    states = last.new_full((len(sizes), sizes.max()), torch.nan, dtype=torch.float32)
    (exact,) = np.nonzero(sizes == hidden_size)
    if len(exact):
        rows, requests = (
            torch.from_numpy(of).to(last.device, non_blocking=True) for of in (exact, owners[exact])
        )
        states[rows, :hidden_size] = last[requests].float()
    return states


def _padded(rows: Sequence[tuple[int, ...]]) -> npt.NDArray[np.int64]:
    """Token ids [readouts, most labels] with `PADDING` behind the shorter rows."""
    padded = np.full((len(rows), max(1, *map(len, rows))), PADDING, dtype=np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _parts(lengths: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Readouts that are scored together: neither their tokens' scores nor their rows' have more
    than `CELLS_AT_ONCE` when padded."""
    first, most = 0, 1
    for readout, own in enumerate(lengths.max(axis=1).tolist()):
        most = max(most, own)
        if first < readout and most * (readout + 1 - first) > CELLS_AT_ONCE:
            yield slice(first, readout)
            first, most = readout, own
    yield slice(first, len(lengths))


def _behind_one_another(blocks: list[Tensor], lengths: npt.NDArray[np.int64]) -> Tensor:
    """The scores of a readout in the first block, then in the second, then the next readout's, [all
    scores]; `lengths` [readouts, blocks] says how many of each row of a block count."""
    sizes, widths = [block.numel() for block in blocks], [block.shape[1] for block in blocks]
    starts = np.cumsum([0, *sizes[:-1]]) + np.arange(len(lengths))[:, None] * widths
    counts = lengths.ravel()
    source = np.repeat(starts.ravel() - (counts.cumsum() - counts), counts)
    source += np.arange(len(source))
    values = torch.cat([block.flatten() for block in blocks])
    return values[torch.from_numpy(source).to(values.device, non_blocking=True)]


def _by_request(scores: Tensor, lengths: npt.NDArray[np.int64]) -> Tensor:
    """Scores of requests that have `lengths` of them, one behind the other, as a row a request,
    padded with -inf, or with NaN where a request has none."""
    bounds = torch.from_numpy(np.stack([lengths.cumsum() - lengths, lengths]))
    starts, counts = bounds.to(scores.device, non_blocking=True)[:, :, None]
    column = torch.arange(max(1, lengths.max()), device=scores.device)
    behind = torch.where(counts == 0, len(scores) + 1, len(scores))
    source = torch.where(column < counts, starts + column, behind)
    values = torch.cat([scores, scores.new_tensor([-torch.inf, torch.nan])])
    return values[source]


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
