"""The label rows of the resident tasks, in bounded memory, and their scores.

The device has one pool of rows, and a task any of them. A task that finds too few free ones keeps
its rows on the host, and a batch that needs them takes them along: nothing fails for lack of room,
and no batch brings more than `rows_at_once` together.
Knows tensors, nothing of vLLM.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from ifedicl_serve.contract.readout import row_scores
from ifedicl_serve.contract.spec import MAX_LABELS

ROWS_PER_TASK = 32  # on average; most tasks have far fewer labels, some up to MAX_LABELS
BYTES_AT_ONCE = 64 << 20  # the rows of a vocabulary of 128k are 2.1 GB at a width of 4096


def pool_size(num_tasks: int) -> int:
    """Rows to have room for on the device, with so many tasks resident."""
    return max(MAX_LABELS, ROWS_PER_TASK * num_tasks)


def rows_at_once(hidden_size: int, num_requests: int) -> int:
    """Rows that so many requests may be scored with at once: neither the rows, in float32, nor
    their scores take more than `BYTES_AT_ONCE`, as long as a task fits."""
    return max(MAX_LABELS, BYTES_AT_ONCE // (4 * max(hidden_size, num_requests)))


class LabelRows:
    """A pool of `capacity` rows, float32, of which each task that was put has its own. Up to
    `at_once` rows are scored at once, or those of one task."""

    def __init__(self, capacity: int, hidden_size: int, device: torch.device, at_once: int) -> None:
        self.at_once = at_once
        self.pool = torch.zeros(capacity, hidden_size, dtype=torch.float32, device=device)
        self._free = list(range(capacity))
        self._held: dict[Hashable, list[int]] = {}  # rows of the pool
        self._spilled: dict[Hashable, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.pool.nbytes

    def put(self, task: Hashable, rows: Tensor) -> None:
        """Keep a task's rows [labels, hidden] until it is dropped."""
        if len(rows) > len(self._free):
            self._spilled[task] = rows
            return
        held = [self._free.pop() for _ in range(len(rows))]
        self.pool[self._indices(held)] = rows.to(self.pool.device)
        self._held[task] = held

    def drop(self, task: Hashable) -> None:
        """Give back what a task had, if it had rows."""
        self._free += self._held.pop(task, [])
        self._spilled.pop(task, None)

    def scores(self, hidden: Tensor, wanted: Sequence[tuple[Hashable, int]]) -> Tensor:
        """Row scores [requests, most rows], float32, of last hidden states [requests, hidden].

        `wanted` names each request's task and how many rows it must have; NaN if it has not. Behind
        a request's own rows is -inf.
        """
        most = max(count for _, count in wanted)
        none = np.full((len(wanted), most), -np.inf, dtype=np.float32)
        requests: dict[Hashable, list[int]] = {}
        for request, (task, count) in enumerate(wanted):
            if count and count == self._count(task):
                requests.setdefault(task, []).append(request)
            else:
                none[request, :count] = np.nan
        scores = self._on_device(none)
        for tasks in self._together(requests):
            rows = self._rows(tasks)
            counts = [self._count(task) for task in tasks]
            columns = _columns(counts, [len(requests[task]) for task in tasks], most)
            of_these = self._indices([row for task in tasks for row in requests[task]])
            padded = pad(row_scores(hidden[of_these], rows), (0, 1), value=-torch.inf)
            scores[of_these] = padded.gather(1, self._on_device(columns))
        return scores

    def _count(self, task: Hashable) -> int:
        rows = self._spilled.get(task, self._held.get(task, ()))
        return len(rows)

    def _together(self, tasks: Iterable[Hashable]) -> Iterator[list[Hashable]]:
        """The tasks, those on the host last, as many as are scored at once."""
        together: list[Hashable] = []
        count = 0
        for task in sorted(tasks, key=self._spilled.__contains__):
            if together and count + self._count(task) > self.at_once:
                yield together
                together, count = [], 0
            together.append(task)
            count += self._count(task)
        if together:
            yield together

    def _rows(self, tasks: list[Hashable]) -> Tensor:
        """Their rows, one task behind the other."""
        indices = [row for task in tasks for row in self._held.get(task, ())]
        held = self.pool[self._indices(indices)]
        spilled = [self._spilled[task] for task in tasks if task in self._spilled]
        return torch.cat([held, *(rows.to(held.device) for rows in spilled)]) if spilled else held

    def _indices(self, values: list[int]) -> Tensor:
        return self._on_device(np.array(values, dtype=np.int64))

    def _on_device(self, values: npt.NDArray) -> Tensor:
        return torch.from_numpy(values).to(self.pool.device, non_blocking=True)


def _columns(counts: list[int], requests: list[int], most: int) -> npt.NDArray[np.int64]:
    """Where the scores of each request lie, [requests, most], among those of tasks that have
    `counts` rows and as many `requests` each; behind a request's own the column after all."""
    firsts = np.cumsum([0, *counts])
    own = np.arange(most)
    where = np.where(own < np.array(counts)[:, None], firsts[:-1, None] + own, firsts[-1])
    return np.repeat(where, requests, axis=0)
