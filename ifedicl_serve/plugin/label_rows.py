"""The label rows of tasks, in bounded memory, and their scores.

Rows take no slot: a request may want those of many tasks that adapt nothing. What was used last
stays on the host, and of that as much on the device as a pool of fixed size holds; a batch that
needs more loads it and takes it along. Nothing fails for lack of room, and no batch brings more
than `rows_at_once` together.
Knows tensors, nothing of vLLM.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from ifedicl_serve.contract.readout import row_scores
from ifedicl_serve.contract.spec import MAX_LABELS
from ifedicl_serve.plugin.request import TaskKey

ROWS_PER_TASK = 32  # on average; most tasks have far fewer labels, some up to MAX_LABELS
BYTES_AT_ONCE = 64 << 20  # the rows of a vocabulary of 128k are 2.1 GB at a width of 4096
HOST_BYTES = 1 << 30


def pool_size(num_tasks: int) -> int:
    """Rows to have room for on the device, with so many tasks in a batch."""
    return max(MAX_LABELS, ROWS_PER_TASK * num_tasks)


def rows_at_once(hidden_size: int, num_requests: int) -> int:
    """Rows that so many requests may be scored with at once: neither the rows, in float32, nor
    their scores take more than `BYTES_AT_ONCE`, as long as a task fits."""
    return max(MAX_LABELS, BYTES_AT_ONCE // (4 * max(hidden_size, num_requests)))


class LabelRows:
    """The rows, float32, of the tasks that were used last: on the host up to `HOST_BYTES`, and of
    those up to `capacity` rows in a pool on the device.

    `load` reads a task's rows [labels, hidden]; where it answers None the task has no scores. Up to
    `at_once` rows are scored at once, or those of one task.
    """

    def __init__(
        self,
        capacity: int,
        hidden_size: int,
        device: torch.device,
        at_once: int,
        load: Callable[[TaskKey], Tensor | None],
    ) -> None:
        self.at_once, self.load = at_once, load
        self.host_capacity = max(capacity, HOST_BYTES // (4 * hidden_size))
        self.pool = torch.zeros(capacity, hidden_size, dtype=torch.float32, device=device)
        self._free = list(range(capacity))
        self._pooled: OrderedDict[TaskKey, list[int]] = OrderedDict()  # oldest use first
        self._host: OrderedDict[TaskKey, Tensor | None] = OrderedDict()  # oldest use first
        self._on_host = 0

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.pool.nbytes

    def put(self, task: TaskKey, rows: Tensor | None) -> None:
        """Keep a task's rows, or that there are none, while there is room for it."""
        self._drop(task)
        self._host[task] = rows
        self._on_host += _room(rows)
        while self._on_host > self.host_capacity:
            self._drop(next(iter(self._host)))

    def _drop(self, task: TaskKey) -> None:
        if task in self._host:
            self._on_host -= _room(self._host.pop(task))
            self._free += self._pooled.pop(task, [])

    def scores(
        self,
        hidden: Tensor,
        owners: npt.NDArray[np.int64],
        wanted: Sequence[tuple[TaskKey | None, int]],
    ) -> Tensor:
        """Row scores [readouts, most rows], float32, of last hidden states [requests, hidden].

        `owners` [readouts] says whose state each readout is of, `wanted` its task and how many rows
        it must have; NaN if it has not. Behind a readout's own rows is -inf.
        """
        most = max(count for _, count in wanted)
        none = np.full((len(wanted), most), -np.inf, dtype=np.float32)
        readouts: dict[TaskKey, list[int]] = {}
        for readout, (task, count) in enumerate(wanted):
            none[readout, :count] = np.nan
            if task is not None and count:
                readouts.setdefault(task, []).append(readout)
        scores = self._on_device(none)
        idle = iter([task for task in self._pooled if task not in readouts])
        for rows in self._together(readouts):
            self._pool(rows, idle)
            tasks = sorted(rows, key=lambda task: task not in self._pooled)
            counts = [len(rows[task]) for task in tasks]
            of_tasks = [
                [readout for readout in readouts[task] if wanted[readout][1] == count]
                for task, count in zip(tasks, counts, strict=True)
            ]
            of_these = np.concatenate(of_tasks).astype(np.int64)
            states, which = np.unique(owners[of_these], return_inverse=True)
            products = row_scores(hidden[self._on_device(states)], self._rows(tasks, rows))
            products = pad(products, (0, 1), value=-torch.inf)
            columns = _columns(counts, list(map(len, of_tasks)), most)
            own = products[self._on_device(which[:, None]), self._on_device(columns)]
            scores[self._on_device(of_these)] = own
        return scores

    def _together(self, tasks: Iterable[TaskKey]) -> Iterator[dict[TaskKey, Tensor]]:
        """The rows of the tasks that have some, of as many tasks as are scored at once."""
        together: dict[TaskKey, Tensor] = {}
        count = 0
        for task in tasks:
            rows = self._found(task)
            if rows is None:
                continue
            if together and count + len(rows) > self.at_once:
                yield together
                together, count = {}, 0
            together[task] = rows
            count += len(rows)
        if together:
            yield together

    def _found(self, task: TaskKey) -> Tensor | None:
        if task in self._host:
            self._host.move_to_end(task)
            return self._host[task]
        rows = self.load(task)
        self.put(task, rows)
        return rows

    def _pool(self, rows: dict[TaskKey, Tensor], idle: Iterator[TaskKey]) -> None:
        """Have them in the pool, as long as tasks that this batch does not want can make room."""
        for task, own in rows.items():
            if task in self._pooled:
                self._pooled.move_to_end(task)
                continue
            while len(own) > len(self._free) and (other := next(idle, None)) is not None:
                self._free += self._pooled.pop(other, [])
            if len(own) <= len(self._free):
                held = [self._free.pop() for _ in range(len(own))]
                self.pool[self._indices(held)] = own.to(self.pool.device)
                self._pooled[task] = held

    def _rows(self, tasks: list[TaskKey], rows: dict[TaskKey, Tensor]) -> Tensor:
        """Their rows, one task behind the other; those in the pool come first."""
        held = self.pool[
            self._indices([row for task in tasks for row in self._pooled.get(task, ())])
        ]
        others = [rows[task].to(held.device) for task in tasks if task not in self._pooled]
        return torch.cat([held, *others]) if others else held

    def _indices(self, values: list[int]) -> Tensor:
        return self._on_device(np.array(values, dtype=np.int64))

    def _on_device(self, values: npt.NDArray) -> Tensor:
        return torch.from_numpy(values).to(self.pool.device, non_blocking=True)


def _room(rows: Tensor | None) -> int:
    """What there is to remember of a task, in rows."""
    return 1 if rows is None else len(rows)


def _columns(counts: list[int], readouts: list[int], most: int) -> npt.NDArray[np.int64]:
    """Where the scores of each readout lie, [readouts, most], among those of tasks that have
    `counts` rows and as many `readouts` each; behind a readout's own the column after all."""
    firsts = np.cumsum([0, *counts])
    own = np.arange(most)
    where = np.where(own < np.array(counts)[:, None], firsts[:-1, None] + own, firsts[-1])
    return np.repeat(where, readouts, axis=0)
