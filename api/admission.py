"""How much work one API process holds at once: bounded, and none that is new when it stops."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from api import metrics
from api.engine import task_of
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


def admit_classifications(engine_client: Any) -> None:
    """Wrap this client's `check_admission`, which vLLM asks before it queues an engine request.

    Upstream: every one counts against --max-num-queued-reqs and --max-num-queued-tokens, in all API
    processes together (vllm/v1/engine/async_llm.py).
    Why: one text is many of them (trie nodes, 128 labels each), so a request that `Admission` let
    in could be refused half-way, whenever it is sent. The flags bound vLLM's own routes.
    Delete when vLLM bounds what callers send instead of what it makes of it.
    """
    check = engine_client.check_admission

    def check_admission(n: int = 1, request_id: str | None = None) -> None:
        if task_of(request_id) is None:
            check(n, request_id)

    engine_client.check_admission = check_admission
