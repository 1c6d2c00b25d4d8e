"""What a request carries through vLLM, the key of its blocks, and the engine's configuration."""

import json
import reprlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from ifedicl_serve.contract.spec import MAX_LABELS
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.plugin.patches.cache_salt import task_salt
from ifedicl_serve.plugin.request import (
    KEY,
    MAX_CHARS,
    MAX_GENERATION_CHARS,
    MAX_HIDDEN_SIZE,
    MAX_INT32,
    MAX_READOUTS,
    MAX_SCORES,
    Adaptation,
    AskedReadout,
    TaskKey,
    TaskRequest,
)

TASK = TaskKey("d" * 64, "generation")


def params(value):
    return SimpleNamespace(extra_kwargs={KEY: json.dumps(value)})


# -- TaskRequest


@pytest.mark.parametrize(
    "request_",
    [
        TaskRequest(),
        TaskRequest(TaskKey("d" * 64)),
        TaskRequest(TASK, tail=0),
        TaskRequest(TASK, (AskedReadout((5, 0, MAX_INT32)),), tail=MAX_INT32),
        TaskRequest(None, (AskedReadout((5,)), AskedReadout((), MAX_LABELS, TASK))),
        TaskRequest(None, (AskedReadout((5,), 0, None, MAX_HIDDEN_SIZE),)),
    ],
)
def test_a_request_survives_the_way_through_the_engine(request_):
    assert TaskRequest.of(SimpleNamespace(extra_kwargs=request_.extra_kwargs())) == request_


def test_it_travels_as_one_string():
    """vLLM copies it deeply several times a request."""
    readouts = AskedReadout((1, 2)), AskedReadout((3,), 2, TaskKey("d", "g"))
    assert TaskRequest(None, readouts).extra_kwargs() == {
        "ifedicl": '{"task": null, "readouts": [[[1, 2], 0, null, 0], [[3], 2, ["d", "g"], 0]], '
        '"tail": null}'
    }


@pytest.mark.parametrize("value", [None, {"digest": "d"}, ["d"], 1, b"{}"])
def test_a_value_that_is_no_string_is_refused(value):
    with pytest.raises(ValueError, match="expected a JSON string"):
        TaskRequest.of(SimpleNamespace(extra_kwargs={KEY: value}))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_string_that_is_no_json_is_refused(text):
    with pytest.raises(ValueError):
        TaskRequest.of(SimpleNamespace(extra_kwargs={KEY: text}))


@pytest.mark.parametrize(
    "params",
    [
        SimpleNamespace(extra_kwargs=None),
        SimpleNamespace(extra_kwargs={"other": 1}),
        SimpleNamespace(extra_args=None),
        SimpleNamespace(extra_args={"other": 1}),
        params({}),
    ],
)
def test_a_request_without_our_key_is_unadapted(params):
    assert TaskRequest.of(params) == TaskRequest(None, ())


def refusal(value):
    with pytest.raises(ValueError) as caught:
        TaskRequest.of(params(value))
    return str(caught.value)


@pytest.mark.parametrize("value", [None, "d", ["d"], 1, {"task": None, "slot": 3}])
def test_a_value_of_another_shape_is_refused(value):
    assert refusal(value) == "'ifedicl' must hold task, readouts, tail"


@pytest.mark.parametrize(
    "task", ["d" * 64, ["d" * 64], {"digest": "d" * 64}, 7, ["d" * 64, "", ""]]
)
def test_a_task_of_another_shape_is_refused(task):
    told = "a task must be null or hold digest, generation"
    assert refusal({"task": task}) == refusal({"readouts": [[[1], 1, task, 0]]}) == told


@pytest.mark.parametrize(
    "digest",
    [None, 7, ["d"], "", "d", "g" * 64, "D" * 64, "d" * 65, f"{'d' * 64}\n", "d" * 10_000],
)
def test_a_digest_that_is_none_is_refused(digest):
    told = f"digest is {reprlib.repr(digest)}, expected 64 hex digits"
    assert refusal({"task": [digest, ""]}) == told


@pytest.mark.parametrize("generation", [None, 1, ["g"], "g" * (MAX_GENERATION_CHARS + 1)])
def test_a_generation_that_is_no_short_string_is_refused(generation):
    assert refusal({"task": ["d" * 64, generation]}) == (
        f"generation is {reprlib.repr(generation)}, expected a string of at most "
        f"{MAX_GENERATION_CHARS} characters"
    )


@pytest.mark.parametrize("readouts", [None, "[]", {}, 1, [[[1], 0, None, 0]] * (MAX_READOUTS + 1)])
def test_readouts_that_are_no_short_list_are_refused(readouts):
    assert refusal({"readouts": readouts}) == f"readouts must be a list of at most {MAX_READOUTS}"


@pytest.mark.parametrize(
    "readout", [None, [], [[1]], [[1], 0, None], [[1], 0, None, 0, 1], {"label_token_ids": [1]}]
)
def test_a_readout_of_another_shape_is_refused(readout):
    told = "a readout must hold label_token_ids, label_rows, task, hidden_size"
    assert refusal({"readouts": [readout]}) == told


def test_more_scores_than_a_batch_is_padded_to_are_refused():
    most = [[[1] * MAX_LABELS, MAX_LABELS, None, 0], [[1] * MAX_LABELS, MAX_LABELS, None, 0]]
    assert TaskRequest.of(params({"readouts": most})).readouts[1].label_rows == MAX_LABELS
    told = f"the readouts have {MAX_SCORES + 1} scores, expected at most {MAX_SCORES}"
    assert refusal({"readouts": [*most, [[1], 0, None, 0]]}) == told


def test_the_longest_request_of_served_tasks_is_read_and_longer_ones_are_refused():
    """Every process keeps what it read, for the next step."""
    key = TaskKey("d" * 64, "g" * MAX_GENERATION_CHARS)
    tokens = (MAX_INT32,) * (MAX_SCORES // MAX_READOUTS)
    most = TaskRequest(key, (AskedReadout(tokens, 0, key),) * MAX_READOUTS, MAX_INT32)
    assert TaskRequest.of(SimpleNamespace(extra_kwargs=most.extra_kwargs())) == most
    with pytest.raises(ValueError) as caught:
        TaskRequest.of(SimpleNamespace(extra_kwargs={KEY: " " * MAX_CHARS + "{}"}))
    assert str(caught.value) == (
        f"'ifedicl' has {MAX_CHARS + 2} characters, expected at most {MAX_CHARS}"
    )


def test_equal_strings_are_read_into_one_object():
    """And so are readouts, which the pooler looks at by their identity."""
    text = TaskRequest(TASK, (AskedReadout((1, 2)),)).extra_kwargs()[KEY]
    copies = [SimpleNamespace(extra_kwargs={KEY: text.encode().decode()}) for _ in range(2)]
    assert TaskRequest.of(copies[0]) is TaskRequest.of(copies[1])


@pytest.mark.parametrize("ids", ["12", {"1": 2}, [-1], [1.0], [True], ["1"], [None], [1 << 31]])
def test_label_tokens_that_are_no_token_ids_are_refused(ids):
    """A number beyond 31 bits would leave int64 in the pooler and end the engine."""
    told = "label_token_ids must be a list of token ids"
    assert refusal({"readouts": [[ids, 0, None, 0]]}) == told


@pytest.mark.parametrize("tail", ["1", -1, 1.0, True, [1], 1 << 31])
def test_a_tail_that_is_no_number_of_tokens_is_refused(tail):
    told = f"tail is {reprlib.repr(tail)}, expected null or a number of tokens"
    assert refusal({"tail": tail}) == told


@pytest.mark.parametrize("rows", [None, "1", -1, 1.0, True, MAX_LABELS + 1])
def test_a_number_of_label_rows_that_no_task_has_is_refused(rows):
    assert refusal({"readouts": [[[1], rows, None, 0]]}) == (
        f"label_rows is {reprlib.repr(rows)}, expected a number from 0 to {MAX_LABELS}"
    )


@pytest.mark.parametrize("size", [None, "1", -1, 1.0, True, MAX_HIDDEN_SIZE + 1])
def test_a_hidden_size_that_no_model_has_is_refused(size):
    assert refusal({"readouts": [[[1], 0, None, size]]}) == (
        f"hidden_size is {reprlib.repr(size)}, expected a number from 0 to {MAX_HIDDEN_SIZE}"
    )


def test_a_request_has_its_hidden_state_once():
    """However many readouts are made of it: the answers of a batch are padded to the longest."""
    told = "several readouts ask for the hidden state, expected one at most"
    assert refusal({"readouts": [[[1], 0, None, 8], [[2], 0, None, 8]]}) == told


@pytest.mark.parametrize(("tail", "start"), [(None, 0), (0, 9), (2, 7), (9, 0), (20, 0)])
def test_the_tail_is_counted_from_the_end_of_the_prompt(tail, start):
    """A prompt shorter than it is adapted whole."""
    assert TaskRequest(TaskKey("d"), tail=tail).adaptation(9) == Adaptation(TaskKey("d"), start)
    assert TaskRequest(tail=tail).adaptation(9).task is None


# -- task_salt


def test_salts_differ_by_digest_generation_and_start():
    salts = [
        task_salt(Adaptation(TaskKey(digest, generation), start))
        for digest in ("d", "e", "")
        for generation in ("", "a", "d")
        for start in (0, 1, 10)
    ]
    assert len(set(salts)) == len(salts)
    assert {salt[0] for salt in salts} == {"ifedicl"}  # a caller's is ("cache_salt", ...)


# -- TaskConfig


def vllm_config(additional_config):
    return SimpleNamespace(additional_config=additional_config)


def test_the_config_is_read_from_the_engine():
    config = TaskConfig(Path("tasks"), 9)
    assert TaskConfig.of(vllm_config(config)) is config


@pytest.mark.parametrize("value", [{}, None])
def test_an_engine_without_task_config_is_refused(value):
    with pytest.raises(ValueError) as caught:
        TaskConfig.of(vllm_config(value))
    assert str(caught.value) == (
        f"additional_config is {type(value).__name__}, expected a TaskConfig naming the artifact "
        "folder; start the engine with `ifedicl serve --tasks DIR`"
    )


def test_the_compile_cache_key_ignores_the_folder():
    assert TaskConfig(Path("a"), 9).compute_hash() == TaskConfig(Path("b"), 9).compute_hash()


def test_the_compile_cache_key_depends_on_slots_and_version(monkeypatch):
    keys = [TaskConfig(Path("a"), tasks).compute_hash() for tasks in (None, 9, 10)]
    monkeypatch.setattr("ifedicl_serve.plugin.config.__version__", "another")
    keys.append(TaskConfig(Path("a"), 9).compute_hash())
    assert len(set(keys)) == 4


@pytest.mark.parametrize(("asked", "allocated"), [(None, 64), (64, 64), (500, 500)])
def test_a_batch_of_distinct_tasks_fits(asked, allocated):
    assert TaskConfig(Path("a"), asked).resident_tasks(max_num_seqs=64) == allocated


@pytest.mark.parametrize("asked", [63, 1, 0])
def test_too_few_resident_tasks_are_refused(asked):
    with pytest.raises(ValueError) as caught:
        TaskConfig(Path("a"), asked).resident_tasks(max_num_seqs=64)
    assert str(caught.value) == (
        f"--max-resident-tasks is {asked}, but a batch may hold 64 requests of as many tasks; "
        "raise it or lower --max-num-seqs"
    )
