"""`GET /metrics`, in the place of vLLM's: one text for all who wait for it.

vLLM's (prometheus_fastapi_instrumentator) makes one for each, as many at once as are asked for. A
thousand tasks are 43,000 lines and a second of a core, and who asks needs no key.
"""

import asyncio
from collections.abc import Callable
from time import monotonic

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

REST = 2  # of the time that the last text took to make, before the next: at most a third goes there

router = APIRouter(include_in_schema=False)


class Scrape:
    """Texts that are as new as whoever asks, made by `render` in a thread, one at a time."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._lock = asyncio.Lock()
        self._text = b""
        self._begun = self._next = 0.0  # when it was, and when another one may be

    async def text(self) -> bytes:
        """One that was begun after this was called; others who wait get the same."""
        asked = monotonic()
        async with self._lock:
            if self._begun < asked:
                await asyncio.sleep(self._next - monotonic())
                begun = monotonic()
                self._text = await asyncio.to_thread(self._render)
                ended = monotonic()
                self._begun, self._next = begun, ended + REST * (ended - begun)
            return self._text


def render() -> bytes:
    """What all processes of this server have counted."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    text = await request.app.state.ifedicl_scrape.text()
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})
