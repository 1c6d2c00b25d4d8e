"""Where the processes of a server count."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counting_in_files() -> Iterator[None]:
    """Set PROMETHEUS_MULTIPROC_DIR to a folder of this run, unless it is set.

    Upstream: vLLM sets it only where several API processes serve
    (vllm/v1/metrics/prometheus.py).
    Why: workers count loaded tasks, and their counts reach /metrics through files. The variable is
    read when prometheus_client is imported, so this comes before.
    Delete when vLLM hands a worker's own metrics to its API processes.
    """
    with tempfile.TemporaryDirectory(prefix="ifedicl-metrics-") as folder:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        yield
