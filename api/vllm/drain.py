"""How an API process stops: it finishes what is in flight first."""

import logging
import time
from typing import Any

from api.limits.admission import Admission

logger = logging.getLogger("vllm.ifedicl")

POLL_S = 0.02

engine_died = False  # of the engine that this process served last; decides its exit status


def drain_before_shutdown(engine_client: Any, admission: Admission) -> None:
    """Wrap this client's `shutdown`, which vLLM calls in a thread when a signal arrives.

    Upstream: the engine is told to finish what it has (--shutdown-timeout) and refuses the rest
    (vllm/entrypoints/launchers/launcher.py).
    Why: a classification may have more to ask the engine (labels of several tokens), so it ends
    before the engine is told. Requests that arrive meanwhile are answered 503.
    Delete when vLLM lets an endpoint plugin take part in the shutdown.
    """
    shutdown = engine_client.shutdown
    if hasattr(shutdown, "drains"):
        return

    def drain_and_shutdown(timeout: float | None = None) -> None:
        global engine_died
        if not admission.draining:  # else vLLM's second call, after the engine was stopped
            engine_died = engine_client.errored
        admission.draining = True
        deadline = time.monotonic() + (timeout or 0.0)
        if admission.requests:
            logger.info("Draining: %d engine requests are in flight", admission.requests)
        while admission.requests and time.monotonic() < deadline and not engine_client.errored:
            time.sleep(POLL_S)
        remaining = None if timeout is None else max(0.0, deadline - time.monotonic())
        shutdown(timeout=remaining)

    drain_and_shutdown.drains = True  # type: ignore[attr-defined]
    engine_client.shutdown = drain_and_shutdown
