"""One request with its retries, as a generator: what to send and how long to wait, no I/O.

The generator yields an `httpx.Request` and is sent the response, or the transport error there
was instead; or it yields a `Wait` and is sent None when that is over. So it is written once and
driven by a blocking client as well as by an async one, as httpx does with its auth flows.
"""

import asyncio
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx

from ifedicl_serve.client.errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    status_error,
)

# What goes away by itself, for a request that changes nothing on the server.
RETRIED_STATUSES = {429, 502, 503, 504}
RETRIED_ERRORS = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
# And for one that does: these say that it has not been taken.
UNTAKEN_STATUSES = {429, 503}
UNTAKEN_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
CONNECT_S = 5.0  # a host that drops packets is tried again rather than waited for

T = TypeVar("T")


@dataclass(frozen=True)
class Wait:
    """Do nothing for that long."""

    seconds: float


Step = httpx.Request | Wait
Reply = httpx.Response | httpx.RequestError | None
Exchange = Generator[Step, Reply, T]


class Clock:
    """Time and chance; a test's own has both under control."""

    def monotonic(self) -> float:
        """Seconds since any moment."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since 1970, which HTTP dates are compared with."""
        return time.time()

    def jitter(self) -> float:
        """The share of a backoff that is waited: callers that failed together return apart."""
        return random.uniform(0.5, 1.0)

    def sleep(self, seconds: float) -> None:
        """Block for that long."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Let other coroutines run for that long."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Retries:
    """How often a request is sent again, and the seconds all of it may take, waits included."""

    most: int
    budget_s: float
    clock: Clock

    def exchange(
        self, build: Callable[[httpx.Timeout], httpx.Request], changes: bool = False
    ) -> Exchange[httpx.Response]:
        """Send until there is an answer that is no error. Raises APIError.

        A request that `changes` something is sent again only if it has not been taken.
        A wait that would outlast the budget is not begun: the error is raised at once.
        """
        deadline = self.clock.monotonic() + self.budget_s
        for attempt in range(self.most + 1):
            left = max(deadline - self.clock.monotonic(), 0.001)
            request = build(httpx.Timeout(left, connect=min(left, CONNECT_S)))
            reply = yield request
            if isinstance(reply, httpx.Response) and reply.is_success:
                return reply
            error = _error(request, reply)
            wait = self._wait(attempt, reply)
            if not _passes(reply, changes) or attempt == self.most:
                break
            if self.clock.monotonic() + wait >= deadline:
                error.add_note(f"not tried again: the timeout is {self.budget_s:g} s in all")
                break
            yield Wait(wait)
        raise error

    def _wait(self, attempt: int, reply: Reply) -> float:
        """Seconds until the next attempt: what the server asks for, else exponential."""
        if isinstance(reply, httpx.Response):
            asked = retry_after(reply.headers.get("retry-after", ""), self.clock.time())
            if asked is not None:
                return asked
        return min(FIRST_WAIT_S * 2.0**attempt, LONGEST_WAIT_S) * self.clock.jitter()


def retry_after(header: str, now: float) -> float | None:
    """Seconds from `now` that a Retry-After header asks for: a number, or an HTTP date.

    None if it is neither.
    """
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(parsedate_to_datetime(header).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def _passes(reply: Reply, changes: bool) -> bool:
    if isinstance(reply, httpx.Response):
        return reply.status_code in (UNTAKEN_STATUSES if changes else RETRIED_STATUSES)
    return isinstance(reply, UNTAKEN_ERRORS if changes else RETRIED_ERRORS)


def _error(request: httpx.Request, reply: Reply) -> APIError:
    if isinstance(reply, httpx.Response):
        return status_error(reply)
    kind = APITimeoutError if isinstance(reply, httpx.TimeoutException) else APIConnectionError
    why = str(reply) or type(reply).__name__
    error = kind(f"no answer from {request.url}: {why}; is the server running there?")
    error.__cause__ = reply
    return error
