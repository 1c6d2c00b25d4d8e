"""Applying a patch twice is applying it once, on stand-ins for what vLLM has there."""

import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import uvicorn.config
from torch import nn

from api.limits.admission import Admission
from api.vllm.admission import admit_classifications
from api.vllm.border import name_tasks_ourselves
from api.vllm.counters import counting_in_files
from api.vllm.drain import drain_before_shutdown
from api.vllm.generate import serve_tasks_as_models
from api.vllm.listed import list_tasks_as_models
from api.vllm.plugins import enable_plugins
from api.vllm.queue_time import record_queue_time
from api.vllm.quiet import quieten_log
from api.vllm.upgrades import decline_upgrades
from ifedicl_serve.errors import ModelError
from ifedicl_serve.plugin.patches.cache_salt import salt_blocks_by_task
from ifedicl_serve.plugin.patches.failures import end_failed_generations
from ifedicl_serve.plugin.patches.lora_head import refuse_lora_of_lm_head
from ifedicl_serve.plugin.patches.malformed import replace_malformed_tasks
from ifedicl_serve.plugin.patches.nan_counts import count_nans_in_logits
from ifedicl_serve.plugin.patches.runner_v1 import assign_slots_in_v1_runner
from ifedicl_serve.plugin.patches.sites import adapt_sites
from ifedicl_serve.plugin.patches.stage_marks import make_room_for_marks
from ifedicl_serve.plugin.pipeline import MARKS
from ifedicl_serve.plugin.request import TaskKey, TaskRequest
from tests.upstream.patches import PATCHES


def twice(patch, *arguments, state):
    """Apply a patch two times; `state` is what there is to see of it."""
    before = state()
    patch(*arguments)
    once = state()
    assert once != before
    patch(*arguments)
    assert state() == once


@pytest.fixture
def upstream(monkeypatch):
    """Puts a class into a module of vLLM's that is not imported."""

    def put(module, class_):
        stand_in = ModuleType(module)
        setattr(stand_in, class_.__name__, class_)
        monkeypatch.setitem(sys.modules, module, stand_in)
        return class_

    return put


@pytest.fixture
def variable(monkeypatch):
    """The value of an environment variable that is not set yet, and is put back."""

    def value(name):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
        return lambda: os.environ.get(name)

    return value


# -- the plugin's


def test_salts(monkeypatch):
    def generate_block_hash_extra_keys(request, start_token_idx, end_token_idx, start_mm_idx):
        return (("theirs",),) if start_token_idx == 0 else None, 7

    module = ModuleType("vllm.v1.core.kv_cache_utils")
    module.generate_block_hash_extra_keys = generate_block_hash_extra_keys
    monkeypatch.setattr("vllm.v1.core.kv_cache_utils", module)
    monkeypatch.setitem(sys.modules, "vllm.v1.core.kv_cache_utils", module)
    twice(salt_blocks_by_task, state=lambda: module.generate_block_hash_extra_keys)

    task = TaskKey("d" * 64, "g")

    def keys(tail, task=task):
        params = SimpleNamespace(extra_kwargs=TaskRequest(task, tail=tail).extra_kwargs())
        request = SimpleNamespace(pooling_params=params, num_prompt_tokens=10)
        blocks = [module.generate_block_hash_extra_keys(request, at, at + 4, 0) for at in (0, 4, 8)]
        assert [mm_idx for _, mm_idx in blocks] == [7, 7, 7]
        return [of_block for of_block, _ in blocks]

    def ours(start):
        return "ifedicl", *task, start

    theirs = ("theirs",)
    assert keys(None) == [(theirs, ours(0)), None, None]
    assert keys(7) == [(theirs, ours(3)), None, None]
    assert keys(6) == [(theirs,), (ours(4),), None]
    assert keys(0) == [(theirs,), None, (ours(10),)]  # of a block that decoding fills
    assert keys(None, None) == keys(6, None) == [(theirs,), None, None]


def test_what_is_malformed(upstream):
    class Request:
        @classmethod
        def from_engine_core_request(cls, request, block_hasher):
            return TaskRequest.of_request(request), block_hasher

    upstream("vllm.v1.request", Request)
    twice(replace_malformed_tasks, state=lambda: Request.from_engine_core_request.__func__)
    for sent, seen in (("{}", None), ("[]", TaskKey("malformed"))):
        params = SimpleNamespace(extra_kwargs={"ifedicl": sent})
        request = SimpleNamespace(request_id="one", pooling_params=params)
        assert Request.from_engine_core_request(request, "hasher") == (TaskRequest(seen), "hasher")


class Scheduler032:
    """What `update_from_output` of vLLM 0.32.0 does with requests that failed."""

    def __init__(self, requests):
        self.requests = requests
        self.grammar_compile_error_reqs = set()
        self.encoder_cache_mismatch_reqs = set()

    def update_from_output(self, scheduler_output, model_runner_output):
        error_req_ids = set(self.grammar_compile_error_reqs)
        self.grammar_compile_error_reqs.clear()
        error_req_ids.update(self.encoder_cache_mismatch_reqs)
        self.encoder_cache_mismatch_reqs.clear()
        return [(request_id, None) for request_id in error_req_ids]


class Scheduler033(Scheduler032):
    """What that of vLLM 0.33.0 does: those of the grammar have an error that the front end raises,
    and others end as they did."""

    def __init__(self, requests):
        super().__init__(requests)
        self.grammar_compile_error_reqs = {}

    def update_from_output(self, scheduler_output, model_runner_output):
        request_errors = self.grammar_compile_error_reqs
        self.grammar_compile_error_reqs = {}
        error_req_ids = set(request_errors)
        error_req_ids.update(self.encoder_cache_mismatch_reqs)
        self.encoder_cache_mismatch_reqs.clear()
        return [(request_id, request_errors.get(request_id)) for request_id in error_req_ids]


@pytest.mark.parametrize("version", [Scheduler032, Scheduler033])
def test_failures_end_alike_in_both_versions(upstream, version):
    class Scheduler(version):
        def update_from_output(self, scheduler_output, model_runner_output):
            return super().update_from_output(scheduler_output, model_runner_output)

    upstream("vllm.v1.core.sched.scheduler", Scheduler)
    twice(end_failed_generations, state=lambda: Scheduler.update_from_output)

    def request(digest):
        params = SimpleNamespace(extra_args=TaskRequest(digest and TaskKey(digest)).extra_kwargs())
        return SimpleNamespace(pooling_params=None, sampling_params=params)

    task = request("d" * 64)
    scheduler = Scheduler({"fails": task, "fine": task, "base": request(None)})
    output = SimpleNamespace(
        num_nans_in_logits={"fails": 9, "fine": 0, "base": 9, "gone": 9},
        req_id_to_index={"fails": 1, "fine": 0, "base": 2},
        sampled_token_ids=[[5], [6], [7]],
    )
    assert scheduler.update_from_output(None, output) == [("fails", None)]
    assert output.sampled_token_ids == [[5], [], [7]]
    assert scheduler.encoder_cache_mismatch_reqs == set()


def test_slots(upstream):
    class GPUModelRunner:
        def _prepare_inputs(self, scheduler_output, num_scheduled_tokens):
            return "prepared"

    upstream("vllm.v1.worker.gpu_model_runner", GPUModelRunner)
    twice(assign_slots_in_v1_runner, state=lambda: GPUModelRunner._prepare_inputs)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = nn.Linear(4, 4), nn.Linear(4, 4)


@pytest.mark.parametrize("bound", [False, True])
def test_sites(bound):
    """A forward that is bound to an instance, as by vLLM's Transformers backend, stays its own."""
    layer = Layer()
    if bound:
        layer.mlp.forward = (lambda self, h: h + 1).__get__(layer.mlp)
    slots = SimpleNamespace(
        layers=range(1),
        scale=torch.full((1, 2, 1, 4), 2.0),
        shift=torch.ones(1, 2, 1, 4),
        token_slots=torch.zeros(8, dtype=torch.int64),
    )
    h = torch.arange(12.0).reshape(3, 4)
    plain = layer.mlp(h)
    twice(adapt_sites, [layer], slots, state=lambda: (type(layer.self_attn), type(layer.mlp)))
    assert isinstance(layer.mlp, nn.Linear)
    torch.testing.assert_close(layer.mlp(h), 2 * plain + 1)


def test_buffers_between_stages():
    sizes = []

    def make_empty(batch_size, dtype, device):
        sizes.append(batch_size)
        return {"hidden_states": torch.zeros(batch_size, 4, dtype=dtype, device=device)}

    model = SimpleNamespace(make_empty_intermediate_tensors=make_empty)
    twice(make_room_for_marks, model, state=lambda: model.make_empty_intermediate_tensors)
    tensors = model.make_empty_intermediate_tensors(3, torch.float16, torch.device("cpu"))
    assert tensors.keys() == {"hidden_states", MARKS}
    assert tensors[MARKS].shape == (3, 1) and tensors[MARKS].dtype == torch.float16
    assert sizes == [3]


def test_adapters_of_lm_head():
    class Model:
        embedding_modules = {"embed_tokens": "input_embeddings", "lm_head": "output_embeddings"}

    model = Model()
    twice(refuse_lora_of_lm_head, model, state=lambda: model.embedding_modules)
    assert model.embedding_modules == {"embed_tokens": "input_embeddings"}
    assert "lm_head" in Model.embedding_modules  # vLLM's own class is as it was


def test_a_variable_by_which_nan_ends_a_worker_is_refused(monkeypatch, variable):
    """A task that cannot be loaded would end the engine, and every request in it."""
    variable("VLLM_COMPUTE_NANS_IN_LOGITS")
    monkeypatch.setenv("VLLM_RAISE_ON_LOGIT_NANS", "1")
    with pytest.raises(ModelError, match="VLLM_RAISE_ON_LOGIT_NANS is set.* unset it"):
        count_nans_in_logits()
    monkeypatch.setenv("VLLM_RAISE_ON_LOGIT_NANS", "0")
    count_nans_in_logits()


def test_counts_of_nan(variable):
    twice(count_nans_in_logits, state=variable("VLLM_COMPUTE_NANS_IN_LOGITS"))


# -- those of `api`


@pytest.fixture
def client():
    """An engine client, with what `api` changes of it."""
    return SimpleNamespace(
        check_admission=lambda n=1, request_id=None: None,
        add_request=lambda request_id, prompt, params: None,
        shutdown=lambda timeout=None: None,
        errored=False,
        logger_manager=SimpleNamespace(stat_loggers=[]),
    )


def test_the_engines_queue(client):
    twice(admit_classifications, client, state=lambda: client.check_admission)


def test_what_the_engine_is_asked(client):
    twice(name_tasks_ourselves, client, state=lambda: client.add_request)


def test_the_engines_end(client):
    twice(drain_before_shutdown, client, Admission(1), state=lambda: client.shutdown)


def test_the_engines_loggers(client):
    loggers = client.logger_manager.stat_loggers
    twice(record_queue_time, client, state=lambda: len(loggers))
    client.logger_manager = None  # --disable-log-stats
    record_queue_time(client)


def test_models_that_are_tasks():
    state = SimpleNamespace(openai_serving_completion=object(), openai_serving_chat=object())
    twice(
        serve_tasks_as_models,
        state,
        None,
        state=lambda: (state.openai_serving_completion, state.openai_serving_chat),
    )


def test_the_list_of_models():
    state = SimpleNamespace(openai_serving_models=object())
    twice(list_tasks_as_models, state, None, state=lambda: state.openai_serving_models)


def test_offers_of_another_protocol(monkeypatch):
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", {"auto": "uvicorn's"})
    twice(decline_upgrades, state=uvicorn.config.HTTP_PROTOCOLS.copy)


def test_plugins(variable):
    twice(enable_plugins, "ifedicl", "ifedicl-api", state=variable("VLLM_PLUGINS"))


def test_the_log(variable):
    twice(quieten_log, state=variable("VLLM_LOGGING_LEVEL"))


def test_where_processes_count(variable):
    folder = variable("PROMETHEUS_MULTIPROC_DIR")
    with counting_in_files():
        once = folder()
        assert os.path.isdir(once)
        with counting_in_files():
            assert folder() == once
        assert os.path.isdir(once)


def test_every_patch_was_applied_twice():
    """But `vllm_serve`, which is a process's last act; `counting_in_files` is one by `with`."""
    applied = re.findall(r"(?:twice\(|with )\s*(\w+)", Path(__file__).read_text())
    assert {patch.partition(":")[2] for patch in PATCHES} - set(applied) == {"vllm_serve"}
