"""What a worker counts, for Prometheus; every worker counts its own loads.

In files that the API process reads (Prometheus's multiprocess mode, which `ifedicl serve` turns
on), as vLLM's own metrics are when several API processes serve.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from prometheus_client import Counter, Gauge

MEMORY_EVERY_S = 1.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

QUERIES = Counter("ifedicl:task_queries", "Tasks that batches named, each once a batch.")
LOADS = Counter("ifedicl:task_loads", "Tasks loaded into a slot because they were not resident.")
FAILURES = Counter("ifedicl:task_load_failures", "Tasks that could not be loaded.")
EVICTIONS = Counter("ifedicl:task_evictions", "Tasks that lost their slot to another one.")
RESIDENT = Gauge("ifedicl:resident_tasks", "Tasks in a slot.", multiprocess_mode="max")
# Prometheus's own process metrics do not exist in its multiprocess mode.
MEMORY = Gauge(
    "ifedicl:process_memory_bytes",
    "Resident memory of the processes of a kind.",
    ["process"],
    multiprocess_mode="livesum",
)
_memory_next = 0.0


def measure_memory(process: str) -> None:
    """Set this process's resident memory, at most once a second; `process` is its kind."""
    global _memory_next
    now = time.monotonic()
    if now < _memory_next:
        return
    _memory_next = now + MEMORY_EVERY_S
    with suppress(OSError):  # no Linux
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        MEMORY.labels(process).set(resident_pages * PAGE_BYTES)
