"""What the model says of examples, asked beside classifications and without keeping them waiting.

An engine takes its requests in turn, so a job is never more than a batch in front of whoever comes
next: a small one while somebody classifies, or has just done so.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import numpy as np

from api.classify.engine import GroupRequest, LabelEngine, group_requests, trie_scores
from api.classify.together import all_or_none
from api.limits.admission import STOPPING, Admission
from ifedicl_serve.errors import DrainingError
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.tasks.task import Task

AT_ONCE_ALONE = 64  # engine requests, in a batch that nobody else waits for
AT_ONCE_BESIDE = 4  # beside classifications
TOKENS_OF_ONE = 512  # of such a request, on average: long texts are fewer at once


class FeatureReader:
    """Reads prompts on the engine of classifications. `admission` says whether there are any."""

    def __init__(self, engine: LabelEngine, admission: Admission, hidden_size: int) -> None:
        self.engine = engine
        self.admission = admission
        self.hidden_size = hidden_size

    async def read(
        self,
        task: Task,
        prompts: Sequence[Sequence[int]],
        on_read: Callable[[float], Awaitable[None]],
    ) -> Features:
        """Of a task that adapts nothing; `on_read` is told the share that was read.

        Raises DrainingError when the server stops, InputError for an engine that has no hidden
        states to give.
        """
        requests = feature_requests(task, self.hidden_size)
        log_probs = np.empty((len(prompts), len(task.spec.labels)), dtype=np.float32)
        hidden = np.empty((len(prompts), self.hidden_size), dtype=np.float32)
        done = 0
        while done < len(prompts):
            if self.admission.draining:
                raise DrainingError(STOPPING)
            most = AT_ONCE_BESIDE if self.admission.classifying else AT_ONCE_ALONE
            batch = batch_of(prompts[done : done + most], len(requests), most)
            rows = await all_or_none(self._row(task, requests, prompt) for prompt in batch)
            for row, (scores, state) in enumerate(rows, start=done):
                log_probs[row], hidden[row] = scores, state
            done += len(batch)
            await on_read(done / len(prompts))
        return Features(log_probs, hidden)

    async def _row(
        self, task: Task, requests: Sequence[GroupRequest], prompt: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        (scores,) = await trie_scores(self.engine, requests, prompt)
        assert scores.hidden is not None  # it was asked for
        return task.trie.log_probs(scores.log_probs), scores.hidden


def batch_of(prompts: Sequence[Sequence[int]], requests: int, most: int) -> Sequence[Sequence[int]]:
    """The first of them that make, of so many requests each, `most` requests and `most` times
    TOKENS_OF_ONE tokens; one if that is more."""
    tokens = 0
    for size, prompt in enumerate(prompts[: max(1, most // requests)]):
        tokens += requests * len(prompt)
        if size and tokens > most * TOKENS_OF_ONE:
            return prompts[:size]
    return prompts[: max(1, most // requests)]


def feature_requests(task: Task, hidden_size: int) -> list[GroupRequest]:
    """What the engine is asked of a prompt: the label scores of every node of the trie, and at the
    first the hidden state that they are made of."""
    first, *others = group_requests([task])
    node = first.nodes[0]
    readout = node.readout._replace(hidden_size=hidden_size)
    return [replace(first, nodes=(node._replace(readout=readout), *first.nodes[1:])), *others]
