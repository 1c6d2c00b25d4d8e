"""Which engine requests are counted as a task's: those of a classification, and no caller's."""

from contextvars import copy_context
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY

from api.classify.engine import new_request_id
from api.observe.context import RequestContext, enter_request
from api.vllm.queue_time import QueueTime


def finished(request_id):
    """What the engine reports of a request with that id."""
    request = SimpleNamespace(request_id=request_id, queued_time=0.25)
    QueueTime().record(None, SimpleNamespace(finished_requests=[request]))


def counted(task):
    return REGISTRY.get_sample_value("ifedicl:request_queue_time_seconds_sum", {"task": task})


def test_a_classifications_time_is_its_tasks():
    context = copy_context()
    context.run(enter_request, RequestContext(id="order:17", tasks=("queued",)))
    finished(context.run(new_request_id))
    assert counted("queued") == 0.25


def test_what_a_job_reads_is_no_tasks():
    context = copy_context()
    context.run(enter_request, RequestContext(id="job"))
    finished(context.run(new_request_id))
    assert counted("") is None


@pytest.mark.parametrize("request_id", ["classify:stranger:x", "resp_1", "", None])
def test_an_id_that_a_caller_chose_makes_no_series(request_id):
    """vLLM's /v1/responses takes a `request_id`."""
    finished(request_id)
    assert counted("stranger") is None
    assert counted("") is None
