"""Texts are tokenised in threads, as many requests at once; the tokenizer is Rust's."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from threading import Event

from api.classify.encoder import Encoded, PromptEncoder
from ifedicl_serve.errors import TextTooLongError
from ifedicl_serve.tasks.task import Task

ENCODERS = 4  # requests tokenised at once
TEXTS_AT_ONCE = 64  # of a request, before it looks whether anybody still waits


class EncoderThreads:
    """A `PromptEncoder` for the event loop."""

    def __init__(self, prompts: PromptEncoder) -> None:
        self.prompts = prompts
        # Not the event loop's own threads, which vLLM stops the server with.
        self._threads = ThreadPoolExecutor(ENCODERS, thread_name_prefix="ifedicl-encode")

    async def encode(
        self, tasks: Sequence[Task], texts: list[str], truncate: bool, all_fit: bool
    ) -> list[list[Encoded]]:
        """As `PromptEncoder.encode_for`; with `all_fit` the first TextTooLongError is raised.

        Cancelled, it ends only when the thread has: what a thread still works on counts as in
        flight.
        """
        dropped = Event()
        work = self._threads.submit(self._encode, tasks, texts, truncate, all_fit, dropped)
        encoding = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(encoding)
        except asyncio.CancelledError:
            dropped.set()
            if not work.cancel():
                await asyncio.wait([encoding])
            raise

    def _encode(
        self,
        tasks: Sequence[Task],
        texts: list[str],
        truncate: bool,
        all_fit: bool,
        dropped: Event,
    ) -> list[list[Encoded]]:
        prompts: list[list[Encoded]] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            if dropped.is_set():
                break
            some = self.prompts.encode_for(tasks, texts[start : start + TEXTS_AT_ONCE], truncate)
            if all_fit:
                _refuse_too_long(some)
            prompts += some
        return prompts


def _refuse_too_long(prompts: list[list[Encoded]]) -> None:
    for prompt in chain.from_iterable(prompts):
        if isinstance(prompt, TextTooLongError):
            raise prompt
