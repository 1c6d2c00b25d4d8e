"""How long texts wait in the engine's queue, per task: vLLM knows it per engine request.

A stat logger of vLLM's (vllm/v1/metrics/loggers.py), which hands over the requests that finished
in a step with the ids that `api.classify.engine` gave them.
"""

from typing import Any

from vllm.v1.metrics.loggers import AggregateStatLoggerBase

from api.classify.engine import task_of
from api.observe import metrics


class QueueTime(AggregateStatLoggerBase):
    """Counts for Prometheus; logs nothing."""

    def __init__(self) -> None:
        pass  # it needs to know nothing of the engine

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """After a step of the engine."""
        for request in iteration_stats.finished_requests if iteration_stats else ():
            task = task_of(request.request_id)
            if task:  # a job that makes one reads for none
                metrics.QUEUE_TIME.labels(task).observe(request.queued_time)

    def log_engine_initialized(self) -> None:
        pass


def record_queue_time(engine_client: Any) -> None:
    """Append a logger to an engine client's; with --disable-log-stats there are none.

    Upstream: a client has the loggers it was made with, of the `vllm.stat_logger_plugins` that are
    installed (vllm/v1/metrics/loggers.py).
    Why: such a plugin would count in every server of this environment, without tasks as well, and
    `ifedicl serve` does not make the client.
    Delete when vLLM lets an endpoint plugin add a logger.
    """
    if engine_client.logger_manager is None:
        return
    loggers = engine_client.logger_manager.stat_loggers
    if not any(isinstance(logger, QueueTime) for logger in loggers):
        loggers.append(QueueTime())
