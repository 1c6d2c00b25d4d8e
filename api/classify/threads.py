"""Texts are tokenised in threads, as many requests at once; the tokenizer is Rust's."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from threading import Event

from api.classify.encoder import PromptEncoder
from ifedicl_serve.tasks.task import Task

ENCODERS = 4  # requests tokenised at once


class EncoderThreads:
    """A `PromptEncoder` for the event loop."""

    def __init__(self, prompts: PromptEncoder) -> None:
        self.prompts = prompts
        # Not the event loop's own threads, which vLLM stops the server with.
        self._threads = ThreadPoolExecutor(ENCODERS, thread_name_prefix="ifedicl-encode")

    async def encode(self, task: Task, texts: list[str], truncate: bool) -> list[list[int]]:
        """The texts' prompts. Raises TextTooLongError for the first that does not fit.

        Cancelled, it ends only when the thread has: what a thread still works on counts as in
        flight.
        """
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
