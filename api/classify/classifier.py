"""Classification, as one path: prompt, label scores, result. Knows no HTTP and no vLLM."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from threading import Event

import numpy as np
import numpy.typing as npt

from api.classify.encoder import PromptEncoder
from api.classify.engine import LabelEngine
from api.classify.together import all_or_none
from ifedicl_serve.tasks.task import Task, unavailable

ENCODERS = 4  # requests tokenised at once; the tokenizer is Rust's and lets others run


@dataclass(frozen=True)
class Scored:
    """One text's label probabilities [labels], in the task's label order."""

    probabilities: npt.NDArray[np.float64]
    prompt_tokens: int
    cached_tokens: int


class Classifier:
    """Classifies texts by tasks on one engine."""

    def __init__(self, engine: LabelEngine, prompts: PromptEncoder) -> None:
        self.engine = engine
        self.prompts = prompts
        # Not the event loop's own threads, which vLLM stops the server with.
        self._threads = ThreadPoolExecutor(ENCODERS, thread_name_prefix="ifedicl-encode")

    async def classify(
        self, task: Task, texts: list[str], truncate: bool = False, adapted: bool = True
    ) -> list[Scored]:
        """Score every text, in order. Raises InputError or TaskUnavailableError for all of them.

        Every prompt is checked before the engine sees the first. Unadapted is the base model's
        answer to the same prompts.
        """
        prompts = await self._encoded(task, texts, truncate)
        return await all_or_none(self._score(task, prompt, adapted) for prompt in prompts)

    async def _encoded(self, task: Task, texts: list[str], truncate: bool) -> list[list[int]]:
        """Prompts, tokenised in a thread. Cancelled, it ends only when the thread has: what a
        thread still works on counts as in flight."""
        dropped = Event()
        work = self._threads.submit(self._encode, task, texts, truncate, dropped)
        encoding = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(encoding)
        except asyncio.CancelledError:
            dropped.set()
            if not work.cancel():
                await asyncio.wait([encoding])
            raise

    def _encode(
        self, task: Task, texts: list[str], truncate: bool, dropped: Event
    ) -> list[list[int]]:
        wanted = takewhile(lambda _: not dropped.is_set(), texts)
        return [self.prompts.encode(task, text, truncate) for text in wanted]

    async def _score(self, task: Task, prompt: list[int], adapted: bool) -> Scored:
        """Score the trie's root, then its inner nodes, which reuse the prompt's cached prefix."""
        root, *inner = task.trie.nodes
        injected = task if adapted else None
        first = await self.engine.token_scores(injected, [*prompt, *root.path], root.children)
        rest = await all_or_none(
            self.engine.token_scores(injected, [*prompt, *node.path], node.children)
            for node in inner
        )
        choices = np.concatenate([scores.log_probs for scores in (first, *rest)])
        return Scored(label_probabilities(task, choices), len(prompt), first.cached_tokens)


def label_probabilities(task: Task, choices: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities [..., labels] from the trie's log-softmaxes [..., choices].

    Raises TaskUnavailableError if one is NaN: a worker could not load the task.
    """
    if np.isnan(choices).any():
        raise unavailable(task)
    return np.exp(task.trie.log_probs(choices).astype(np.float64))
