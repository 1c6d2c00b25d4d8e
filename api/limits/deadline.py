"""The end of a request: its answer, its deadline, or a client that hung up.

Work that nobody waits for is cancelled, which aborts it in the engine too (vLLM's `encode` and
`generate` abort when they are cancelled).
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from ifedicl_serve.errors import DeadlineError

T = TypeVar("T")


async def answer_in_time(work: Coroutine[Any, Any, T], request: Request, seconds: float) -> T:
    """The result of `work`; the request's body must have been read.

    Raises DeadlineError after `seconds`, ClientDisconnect when the client is gone, and whatever
    `work` raises.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(request))
    try:
        done, _ = await asyncio.wait(
            (working, watching), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if working in done:
            return working.result()
        if watching in done:
            raise ClientDisconnect()
        raise DeadlineError(
            f"not answered within {seconds:g} seconds; send fewer texts at once, or a longer "
            '"timeout" if the server allows it'
        )
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
