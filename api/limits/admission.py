"""How much work one API process holds at once: bounded, and none that is new when it stops."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from api.observe import metrics
from ifedicl_serve.errors import DrainingError, IFedICLError, OverloadedError

MAX_RETRY_AFTER_S = 60
RECENT_S = 1.0
STOPPING = "this server is stopping; send the request to another one"


class Admission:
    """Counts the engine requests of classifications: a text is one for each node of its task's
    label trie. Used from the event loop alone."""

    def __init__(self, max_requests: int) -> None:
        self.max_requests = max_requests
        self.requests = 0
        self.draining = False
        self._last_latency = 0.0
        self._last_end = -math.inf

    @property
    def classifying(self) -> bool:
        """Whether somebody classifies, or did a moment ago and may do so again."""
        return self.requests > 0 or monotonic() - self._last_end < RECENT_S

    @contextmanager
    def hold(self, requests: int) -> Iterator[None]:
        """Count so many until the block ends. Raises DrainingError, also for what the engine drops
        because it stops, or OverloadedError if they are too many beside those in flight; who is
        alone always fits."""
        if self.draining:
            raise DrainingError(STOPPING)
        if self.requests and self.requests + requests > self.max_requests:
            raise OverloadedError(
                f"{self.requests} engine requests are in flight and the {requests} of these texts "
                f"exceed this server's {self.max_requests}; send the request again later",
                self._retry_after(),
            )
        started = monotonic()
        self.requests += requests
        metrics.IN_FLIGHT.set(self.requests)
        try:
            yield
            self._last_end = monotonic()
            self._last_latency = self._last_end - started
        except IFedICLError:
            raise
        except Exception as error:
            if self.draining:  # --shutdown-timeout is over
                raise DrainingError(STOPPING) from error
            raise
        finally:
            self.requests -= requests
            metrics.IN_FLIGHT.set(self.requests)

    def _retry_after(self) -> int:
        """Seconds that the last request took: what was in front of it is in front of a new one."""
        return min(max(1, math.ceil(self._last_latency)), MAX_RETRY_AFTER_S)
