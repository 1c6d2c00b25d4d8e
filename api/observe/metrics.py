"""What an API process counts per task, for Prometheus, in vLLM's naming style.

A task is a label only if it exists, so strangers cannot make series; a removed task's stay until
the server restarts. Workers count their loads in `ifedicl_serve.plugin.counters`.
"""

from prometheus_client import Counter, Gauge, Histogram, Summary

from api.observe.context import RequestContext

# As vLLM's latency histograms, from a millisecond on.
LATENCY_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
# Coarser: every bucket is a line of /metrics for every task.
QUEUE_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)

REQUESTS = Counter("ifedicl:request", "Classify requests answered.", ["task", "status"])
ERRORS = Counter("ifedicl:request_errors", "Classify requests not served.", ["task", "kind"])
LATENCY = Histogram(
    "ifedicl:e2e_request_latency_seconds", "Of classify requests.", ["task"], buckets=LATENCY_S
)
QUEUE_TIME = Histogram(
    "ifedicl:request_queue_time_seconds", "In the engine's queue.", ["task"], buckets=QUEUE_S
)
TEXTS = Counter("ifedicl:texts", "Texts classified.", ["task"])
PROMPT_TOKENS = Counter("ifedicl:prompt_tokens", "Prompt tokens of texts classified.", ["task"])
CACHED_TOKENS = Counter("ifedicl:cached_tokens", "Of those, from the prefix cache.", ["task"])
LABELS = Counter("ifedicl:label", "Texts given this label.", ["task", "label"])
TOP_SCORE = Summary("ifedicl:top_score", "Probability of the label given to a text.", ["task"])
IN_FLIGHT = Gauge(
    "ifedicl:requests_in_flight",
    "Engine requests of classifications.",
    multiprocess_mode="livesum",
)
TASKS = Gauge("ifedicl:tasks", "Artifacts by status.", ["status"], multiprocess_mode="livemax")


def count_request(context: RequestContext, status: int, seconds: float) -> None:
    """A classify request that ended, well or not: counted for each of its tasks."""
    for task in dict.fromkeys((*context.tasks, *context.lost)) or ("",):
        of_task, kind = context.lost.get(task, (status, context.error or "Error"))
        REQUESTS.labels(task, str(of_task)).inc()
        LATENCY.labels(task).observe(seconds)
        if of_task >= 400:
            ERRORS.labels(task, kind).inc()
