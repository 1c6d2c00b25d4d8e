"""What a worker counts, for Prometheus; every worker counts its own loads.

In files that the API process reads (Prometheus's multiprocess mode, which `ifedicl serve` turns
on), as vLLM's own metrics are when several API processes serve.
"""

from prometheus_client import Counter, Gauge

QUERIES = Counter("ifedicl:task_queries", "Tasks that batches named, each once a batch.")
LOADS = Counter("ifedicl:task_loads", "Tasks loaded into a slot because they were not resident.")
FAILURES = Counter("ifedicl:task_load_failures", "Tasks that could not be loaded.")
EVICTIONS = Counter("ifedicl:task_evictions", "Tasks that lost their slot to another one.")
RESIDENT = Gauge("ifedicl:resident_tasks", "Tasks in a slot.", multiprocess_mode="max")
