"""Texts are tokenised in threads, as many requests at once; the tokenizer is Rust's."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from api.classify.encoder import Encoded, PromptEncoder, PromptKey
from ifedicl_serve.tasks.task import Task

ENCODERS = 4  # requests tokenised at once


class EncoderThreads:
    """A `PromptEncoder` for the event loop."""

    def __init__(self, prompts: PromptEncoder) -> None:
        self.prompts = prompts
        # Not the event loop's own threads, which vLLM stops the server with.
        self._threads = ThreadPoolExecutor(ENCODERS, thread_name_prefix="ifedicl-encode")

    async def encode(
        self, tasks: Sequence[Task], texts: list[str], truncate: bool
    ) -> list[list[Encoded]]:
        """The texts' prompts, [texts][tasks], each made once for all tasks whose prompts are equal.

        Cancelled, it ends only when the thread has: what a thread still works on counts as in
        flight.
        """
        dropped = Event()
        work = self._threads.submit(self._encode, tasks, texts, truncate, dropped)
        encoding = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(encoding)
        except asyncio.CancelledError:
            dropped.set()
            if not work.cancel():
                await asyncio.wait([encoding])
            raise

    def _encode(
        self, tasks: Sequence[Task], texts: list[str], truncate: bool, dropped: Event
    ) -> list[list[Encoded]]:
        keys = [self.prompts.key(task) for task in tasks]
        prompts: list[list[Encoded]] = []
        for text in texts:
            made: dict[PromptKey, Encoded] = {}
            for key, task in zip(keys, tasks, strict=True):
                if dropped.is_set():
                    return prompts
                if key not in made:
                    made[key] = self.prompts.encode_or_error(task, text, truncate)
            prompts.append([made[key] for key in keys])
        return prompts
