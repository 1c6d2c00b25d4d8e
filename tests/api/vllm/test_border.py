"""What of a request reaches the engine under our key: what our own code put there, and no more."""

import asyncio
from contextvars import copy_context
from types import SimpleNamespace

import pytest
from vllm import PoolingParams, SamplingParams

from api.classify.engine import new_request_id
from api.observe.context import RequestContext, current_request, enter_request
from api.vllm.border import name_tasks_ourselves
from ifedicl_serve.plugin.request import KEY, TaskKey, TaskRequest

INVENTED = TaskRequest(TaskKey("0" * 64)).extra_kwargs()
ASKED = TaskRequest(TaskKey("1" * 64, "second"), tail=4)


class Client:
    """vLLM's client; remembers what the engine is asked."""

    def __init__(self):
        self.asked = []

    async def add_request(self, request_id, prompt, params, arrival_time=None, **options):
        self.asked.append((request_id, prompt, params, options))
        return "its queue"


def added(params, request_id="cmpl-1", asked=None):
    """The parameters as they reach the engine."""
    client = Client()
    name_tasks_ourselves(client)

    def send():
        enter_request(RequestContext())
        current_request().asked = asked
        return asyncio.run(client.add_request(request_id, [1, 2], params, None, priority=3))

    assert copy_context().run(send) == "its queue"
    assert client.asked == [(request_id, [1, 2], params, {"priority": 3})]
    return params


@pytest.mark.parametrize("sent", [INVENTED, INVENTED | {"ngram_size": 3}, {KEY: {"digest": 1}}])
def test_what_a_caller_put_there_is_dropped_and_all_else_is_kept(sent):
    others = {name: value for name, value in sent.items() if name != KEY} or None
    assert added(SamplingParams(extra_args=dict(sent))).extra_args == others
    assert added(PoolingParams(extra_kwargs=dict(sent))).extra_kwargs == others


@pytest.mark.parametrize("params", [SamplingParams(), PoolingParams()])
def test_a_request_that_says_nothing_stays_as_it_is(params):
    before = repr(params)
    assert repr(added(params)) == before


@pytest.mark.parametrize("sent", [None, {"ngram_size": 3}, INVENTED])
def test_a_task_that_our_route_found_is_named_whatever_the_caller_said(sent):
    params = added(SamplingParams(extra_args=sent), asked=ASKED)
    assert TaskRequest.of(params) == ASKED
    assert params.extra_args.get("ngram_size") == (sent or {}).get("ngram_size")


def test_a_classification_says_itself_what_it_asks():
    params = SimpleNamespace(extra_kwargs=ASKED.extra_kwargs())
    assert TaskRequest.of(added(params, new_request_id())) == ASKED


@pytest.mark.parametrize("request_id", ["classify", "classify:sst2:1", "classify-0:sst2:1:2"])
def test_no_caller_passes_for_a_classification(request_id):
    """vLLM's /v1/responses takes a request id of the caller's."""
    assert added(SamplingParams(extra_args=dict(INVENTED)), request_id).extra_args is None
