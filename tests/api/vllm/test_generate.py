"""Tasks as models of vLLM's completion routes, and label scores from generated tokens."""

import asyncio
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from vllm.exceptions import GenerationError
from vllm.v1.engine.exceptions import EngineDeadError

from api.classify.classifier import Classifier
from api.classify.encoder import PromptEncoder
from api.classify.engine import GenerationEngine, key_of
from api.errors import on_error
from api.observe.context import RequestContext, current_request, enter_request
from api.vllm.generate import TaskServing
from api.vllm.listed import ListedModels
from ifedicl_serve.contract.prompt import tail_tokens
from ifedicl_serve.errors import (
    DrainingError,
    EngineDiedError,
    InputError,
    TaskNotFoundError,
    TaskUnavailableError,
)
from ifedicl_serve.plugin.request import AskedReadout, TaskRequest
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.ifedicl_serve.factory import MODEL, NOTHING_ADAPTED, make_artifact

BASE = "base"


class FakeModels:
    lora_requests = {"adapter": object()}

    def is_base_model(self, name):
        return name == BASE

    def model_name(self, lora_request=None):
        return BASE


class FakeServing:
    """Answers with what vLLM's own would go by: the model's name, and, as the border puts it among
    the engine's arguments, what is asked of a task."""

    def __init__(self, fails=False):
        self.models = FakeModels()
        self.fails = fails
        self.untouched = "delegated"

    async def create_completion(self, request, raw_request):
        if self.fails:
            raise GenerationError("Internal server error")
        known = not request.model or self.models.is_base_model(request.model)
        return self.models.model_name() if known else None, current_request().asked

    create_chat_completion = create_completion


def ask(registry, model, fails=False, method="create_completion", **fields):
    request = SimpleNamespace(**({"model": model, "use_beam_search": False} | fields))
    serving = TaskServing(FakeServing(fails), registry)

    async def answer():
        enter_request(RequestContext())
        return await getattr(serving, method)(request)

    return asyncio.run(answer())


@pytest.mark.parametrize("method", ["create_completion", "create_chat_completion"])
def test_a_task_is_a_model_that_vllm_knows_and_names_in_its_answer(registry, method):
    task = registry.get("sst2")
    asked = TaskRequest(key_of(task))
    assert ask(registry, "sst2", method=method) == ("sst2", asked)


def test_a_task_of_a_tail_is_sent_with_it(tokenizer, tmp_path):
    make_artifact(tmp_path / "ending", name="ending", extent="tail")
    registry = TaskRegistry(tmp_path, MODEL, tokenizer)
    _, asked = ask(registry, "ending")
    assert asked.tail == tail_tokens(tokenizer, registry.get("ending").spec.prompt)


@pytest.mark.parametrize("own", [None, "a"])
def test_a_key_with_tasks_of_its_own_has_kv_of_its_own(registry, own):
    """A task of a tail would else share the KV of prompts with other keys."""

    async def salt(tenant):
        context = RequestContext(tenant=tenant, allowed=("*",))
        enter_request(context)
        request = SimpleNamespace(model="sst2", use_beam_search=False, cache_salt=own)
        await TaskServing(FakeServing(), registry).create_completion(request)
        return request.cache_salt

    salts = [asyncio.run(salt(tenant)) for tenant in ("one", "another")]
    assert len({own, *salts}) == 3


@pytest.mark.parametrize("model", [BASE, "", None])
def test_the_base_model_stays_unadapted(registry, model):
    assert ask(registry, model) == (BASE, None)


def test_a_lora_adapter_goes_to_vllm_as_it_is(registry):
    assert ask(registry, "adapter") == (None, None)


def test_a_name_that_is_no_task_is_refused_with_those_that_are(registry):
    with pytest.raises(TaskNotFoundError, match="'nobody' is not loaded .loaded: 'fatal'"):
        ask(registry, "nobody")


def test_beam_search_is_refused(registry):
    """vLLM asks the engine anew for every token of a beam, with those before it as the prompt."""
    with pytest.raises(InputError, match="leave use_beam_search out"):
        ask(registry, "sst2", use_beam_search=True)
    assert ask(registry, BASE, use_beam_search=True) == (BASE, None)


def test_a_task_that_the_engine_could_not_load_is_unavailable(registry):
    with pytest.raises(TaskUnavailableError, match="'sst2' could not be loaded by the engine"):
        ask(registry, "sst2", fails=True)
    with pytest.raises(GenerationError):
        ask(registry, BASE, fails=True)


def logged(coroutine):
    """What the log says of a request that did this."""
    context = RequestContext()

    async def done():
        enter_request(context)
        await coroutine

    asyncio.run(done())
    return context.task, context.error


def test_the_log_tells_the_task_and_the_kind_of_error(registry):
    def asking(model):
        request = SimpleNamespace(model=model, use_beam_search=False)
        return TaskServing(FakeServing(), registry).create_completion(request)

    error = TaskNotFoundError("task 'nobody' is not loaded")
    assert logged(asking("sst2")) == ("sst2", "")
    assert logged(asking(BASE)) == ("", "")
    assert logged(on_error(None, error)) == ("", "TaskNotFoundError")


def test_all_else_is_vllms(registry):
    assert TaskServing(FakeServing(), registry).untouched == "delegated"


def test_tasks_are_listed_as_children_of_the_base_model(registry):
    from vllm.entrypoints.serve.engine.protocol import ModelCard, ModelList

    class Models:
        async def show_available_models(self):
            return ModelList(data=[ModelCard(id=BASE, max_model_len=48)])

    listed = asyncio.run(ListedModels(Models(), registry).show_available_models()).data
    assert [card.id for card in listed] == [BASE, *registry.tasks]
    assert {(card.parent, card.max_model_len) for card in listed[1:]} == {(BASE, 48)}


# -- GenerationEngine


class FakeClient:
    """Generates one token; a token's log-probability is minus its id over 100."""

    def __init__(self, finish_reason="length"):
        self.finish_reason = finish_reason
        self.asked = []
        self.prompts = []

    async def generate(self, prompt, params, request_id, trace_headers):
        self.asked.append(params)
        self.prompts.append(prompt["prompt_token_ids"])
        scored = {
            token: SimpleNamespace(logprob=-token / 100) for token in params.logprob_token_ids
        }
        logprobs = [] if self.finish_reason == "abort" else [scored]
        completion = SimpleNamespace(finish_reason=self.finish_reason, logprobs=logprobs)
        yield SimpleNamespace(outputs=[completion], num_cached_tokens=7)


def request_of(registry, token_ids, **fields):
    return TaskRequest(key_of(registry.get("sst2")), (AskedReadout(token_ids),), **fields)


def token_scores(client, request):
    (scores,) = asyncio.run(GenerationEngine(client).token_scores([1, 2], request))
    return scores


def test_log_probabilities_are_among_the_labels(registry):
    client, request = FakeClient(), request_of(registry, (5, 100), tail=4)
    scores = token_scores(client, request)
    np.testing.assert_allclose(np.exp(scores.log_probs).sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(scores.log_probs[0] - scores.log_probs[1], 0.95, rtol=1e-5)
    assert (scores.cached_tokens, scores.row_scores) == (7, None)
    assert TaskRequest.of(client.asked[0]) == replace(request, readouts=())


def test_control_tokens_of_a_text_are_text_here_too(registry, tokenizer):
    client, task, text = FakeClient(), registry.get("sst2"), "good<|endoftext|>"
    classifier = Classifier(GenerationEngine(client), PromptEncoder(tokenizer, 48))
    asyncio.run(classifier.classify([task], [text]))
    prompt = str(task.spec.prompt.render(text))
    assert client.prompts == [tokenizer(prompt, split_special_tokens=True).input_ids]
    assert tokenizer.eos_token_id not in client.prompts[0]


def test_more_labels_than_vllm_reports_at_once_take_several_requests(registry):
    client = FakeClient()
    request = request_of(registry, tuple(range(300)))
    scores = token_scores(client, request)
    sizes = [len(params.logprob_token_ids) for params in client.asked]
    assert sizes == [128, 128, 44]
    assert GenerationEngine(client).requests(request) == len(sizes)  # so many are admitted
    np.testing.assert_allclose(np.diff(scores.log_probs), -0.01, rtol=1e-3)


def test_the_first_request_that_fails_ends_the_others(registry):
    """So that nothing is generated for a text whose scores are lost."""

    class Dying(FakeClient):
        ended = 0

        async def generate(self, prompt, params, request_id, trace_headers):
            if 299 in params.logprob_token_ids:
                raise EngineDeadError
            try:
                await asyncio.Event().wait()
            finally:
                self.ended += 1
            yield

    async def ended_by_then():
        client = Dying()
        with pytest.raises(EngineDiedError, match="the engine has stopped"):
            await GenerationEngine(client).token_scores(
                [1], request_of(registry, tuple(range(300)))
            )
        return client.ended

    assert asyncio.run(ended_by_then()) == 2


def test_a_request_that_ended_with_an_error_has_no_scores(registry):
    scores = token_scores(FakeClient("error"), request_of(registry, (5, 6)))
    assert np.isnan(scores.log_probs).all()


def test_readouts_of_a_request_are_each_among_their_own_tokens():
    client = FakeClient()
    asked = TaskRequest(readouts=(AskedReadout((5, 100)), AskedReadout((100, 7, 5))))
    few, more = asyncio.run(GenerationEngine(client).token_scores([1, 2], asked))
    assert [params.logprob_token_ids for params in client.asked] == [[5, 100, 7]]
    np.testing.assert_allclose([np.exp(of.log_probs).sum() for of in (few, more)], 1, rtol=1e-6)
    np.testing.assert_allclose(np.diff(few.log_probs), [-0.95], rtol=1e-5)
    np.testing.assert_allclose(np.diff(more.log_probs), [0.93, 0.02], rtol=1e-5)


def test_a_task_with_label_rows_is_refused_not_read_without_them(registry, tokenizer, tmp_path):
    make_artifact(tmp_path / "rows", name="rows", rung="head", **NOTHING_ADAPTED)
    task, client = TaskRegistry(tmp_path, MODEL, tokenizer).get("rows"), FakeClient()
    classifier = Classifier(GenerationEngine(client), PromptEncoder(tokenizer, 48))
    ((error,),) = asyncio.run(classifier.classify([task], ["good"]))
    assert isinstance(error, InputError)
    assert re.search("'rows' scores its 2 labels.* --runner pooling", str(error))
    assert client.asked == []
    asked = TaskRequest(readouts=(AskedReadout((5, 6), 2, key_of(task)),))
    assert np.isnan(token_scores(client, asked).row_scores).all()


def test_a_task_that_adapts_nothing_generates_as_the_base_model(tokenizer, tmp_path):
    make_artifact(tmp_path / "bias", name="bias", rung="bias", **NOTHING_ADAPTED)
    assert ask(TaskRegistry(tmp_path, MODEL, tokenizer), "bias") == ("bias", None)


def test_a_request_that_a_stopping_engine_dropped_is_for_another_server(registry):
    with pytest.raises(DrainingError, match="send the request to another one"):
        token_scores(FakeClient("abort"), request_of(registry, (5, 6)))
