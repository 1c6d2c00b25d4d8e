"""How much work one API process holds at once: bounded, and none that is new when it stops."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from api.observe import metrics
from ifedicl_serve.errors import DrainingError, OverloadedError

MAX_RETRY_AFTER_S = 60


class Admission:
    """Counts the texts that are being classified. Used from the event loop alone."""

    def __init__(self, max_texts: int) -> None:
        self.max_texts = max_texts
        self.texts = 0
        self.draining = False
        self._last_latency = 0.0

    @contextmanager
    def hold(self, texts: int) -> Iterator[None]:
        """Count `texts` until the block ends. Raises DrainingError, or OverloadedError if they
        are too many beside those in flight; a request that is alone always fits."""
        if self.draining:
            raise DrainingError("this server is stopping; send the request to another one")
        if self.texts and self.texts + texts > self.max_texts:
            raise OverloadedError(
                f"{self.texts} texts are being classified and {texts} more exceed this server's "
                f"{self.max_texts}; send the request again later",
                self._retry_after(),
            )
        started = monotonic()
        self.texts += texts
        metrics.IN_FLIGHT.set(self.texts)
        try:
            yield
            self._last_latency = monotonic() - started
        finally:
            self.texts -= texts
            metrics.IN_FLIGHT.set(self.texts)

    def _retry_after(self) -> int:
        """Seconds that the last request took: what was in front of it is in front of a new one."""
        return min(max(1, math.ceil(self._last_latency)), MAX_RETRY_AFTER_S)
