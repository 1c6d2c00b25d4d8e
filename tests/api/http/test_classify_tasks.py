"""`POST /v1/classify` by several tasks: each as alone, errors in their places, what is shared."""

import numpy as np
import pytest
from prometheus_client import REGISTRY

from api.access.allowed import AllowedTasks
from api.classify.engine import new_request_id, task_of
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.schema import MAX_TASKS, ClassifyTasksResponse
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import MAX_MODEL_LEN, application, running
from tests.api.fake_engine import CACHED_TOKENS, FakeEngine
from tests.api.http.test_classify import post
from tests.api.http.test_errors import error_of, refused
from tests.ifedicl_serve.factory import MODEL, NOTHING_ADAPTED, make_artifact

TEXTS = ["it is wonderful", "a long and boring film", "no"]
OF_TOPICS = ("world news", "business", "world sports", "world", "business of the world")
TOPIC = PromptTemplate.of("Review: {text}\nTopic:")
# Names in the order of a listing. The last three have one prompt and adapt nothing.
NAMES = ["all", "other", "tail", "base", "mood", "topics"]


@pytest.fixture(scope="module")
def registry(tokenizer, tmp_path_factory):
    """Tasks that adapt all, all, and the tail of their prompts, and three that adapt nothing."""
    folder = tmp_path_factory.mktemp("tasks")
    make_artifact(folder / "all", name="all")
    make_artifact(folder / "other", name="other", seed=1)
    make_artifact(folder / "tail", name="tail", extent="tail", prompt=TOPIC)
    nothing = {"prompt": TOPIC, **NOTHING_ADAPTED}
    make_artifact(folder / "base", name="base", rung="bias", **nothing)
    make_artifact(folder / "mood", name="mood", rung="head", labels=("sad", "glad"), **nothing)
    make_artifact(folder / "topics", name="topics", rung="head", labels=OF_TOPICS, **nothing)
    return TaskRegistry(folder, MODEL, tokenizer)


@pytest.fixture
def engine(app):
    engine = app.state.ifedicl_classifier.engine
    engine.prompts.clear()
    return engine


@pytest.fixture(scope="module")
def app(registry, tokenizer):
    return application(registry, tokenizer, FakeEngine())


def ask(client, tasks, texts=TEXTS, **options):
    return post(client, tasks=tasks, input=texts, **options)


def alone(client, task, texts=TEXTS, **options):
    """What the task answers on its own, as entries of an answer of several."""
    response = post(client, task=task, input=texts, **options)
    named = {"task": task, "task_digest": response["task_digest"]}
    return [result | named for result in response["data"]]


def by_text(columns):
    return [result for row in zip(*columns, strict=True) for result in row]


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"adapted": False}])
def test_each_answers_as_alone_text_by_text_in_order(client, options):
    names = NAMES[::-1]
    answer = ask(client, names, **options)
    assert answer["data"] == by_text([alone(client, name, **options) for name in names])
    assert answer["adapted"] == options.get("adapted", True)
    assert ClassifyTasksResponse.model_validate(answer, strict=True).model_dump() == answer


def test_a_star_is_all_there_are(client):
    assert ask(client, "*")["data"] == ask(client, sorted(NAMES))["data"]


def test_one_of_a_list_is_answered_as_several_are(client):
    answer = ask(client, ["mood"], "no")
    assert answer["data"] == alone(client, "mood", "no")
    assert answer.keys() == {"id", "object", "created", "adapted", "data", "usage"}


# -- what is shared


def nodes(registry, *names):
    return len({node.path for name in names for node in registry.get(name).trie.nodes})


def test_tasks_with_one_prompt_that_adapt_nothing_are_one_request(client, engine, registry):
    ask(client, ["base", "mood"], "no")
    assert nodes(registry, "base") == nodes(registry, "mood") == 1
    assert len(engine.prompts) == 1
    engine.prompts.clear()
    ask(client, ["all", "other", "tail"], "no")
    assert len(engine.prompts) == 3


def test_unadapted_all_with_one_prompt_are_one_request(client, engine):
    ask(client, ["all", "other"], "no", adapted=False)
    assert len(engine.prompts) == 1


def test_a_prompt_is_tokenised_once_for_all_that_have_it(client, app, monkeypatch):
    tokenizer, made = app.state.ifedicl_classifier.encoder.prompts.tokenizer, []
    ids = tokenizer.ids
    monkeypatch.setattr(tokenizer, "ids", lambda prompts: made.extend(prompts) or ids(prompts))
    ask(client, ["all", "other", "tail", "base", "mood", "topics"])
    assert len(made) == 2 * len(TEXTS)


def test_labels_of_other_lengths_part_tasks_only_where_a_text_fits_no_more(
    client, engine, registry, tokenizer
):
    """The longest label of `topics` leaves a token less than that of `base` and `mood`."""
    names = ["base", "mood", "topics"]
    long = " good" * (MAX_MODEL_LEN - len(token_ids(tokenizer, TOPIC.render(""))))
    of_topics = nodes(registry, "topics")
    for text, truncate, requests in [
        ("no", False, of_topics),
        (long, False, 1),
        (long, True, 1 + of_topics),
    ]:
        engine.prompts.clear()
        answer = ask(client, names, text, truncate=truncate)
        assert len(engine.prompts) == requests
        own = [name for name in names if name not in {task for _, task, _ in lost(answer)}]
        assert kept(answer, *own) == by_text(alone(client, n, text, truncate=truncate) for n in own)


def test_a_shared_computation_is_the_first_ones_and_cached_for_the_others(client):
    answer = ask(client, ["base", "mood", "all"])
    tokens = [result["prompt_tokens"] for result in answer["data"]]
    cached = 2 * CACHED_TOKENS * len(TEXTS) + sum(tokens[1::3])
    assert answer["usage"] == {
        "prompt_tokens": sum(tokens),
        "total_tokens": sum(tokens),
        "prompt_tokens_details": {"cached_tokens": cached},
    }


@pytest.mark.parametrize("adapted", [True, False])
def test_as_many_engine_requests_are_admitted_as_are_made(
    client, app, engine, monkeypatch, adapted
):
    admission, held = app.state.ifedicl_admission, []
    hold = admission.hold
    monkeypatch.setattr(admission, "hold", lambda count: held.append(count) or hold(count))
    ask(client, NAMES, adapted=adapted)
    assert held == [len(engine.prompts)]


def test_each_engine_request_of_a_group_tells_what_it_found_cached(client, engine, monkeypatch):
    monkeypatch.setattr("api.classify.engine.MAX_READOUTS", 2)
    answer = ask(client, ["base", "mood", "topics"], "no")
    cached = 2 * CACHED_TOKENS + answer["data"][0]["prompt_tokens"]
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}


# -- errors in their places


def lost(answer):
    """What is no result: its text, its task and its status."""
    errors = [entry for entry in answer["data"] if entry["object"] == "error"]
    return [(entry["index"], entry["task"], entry["error"]["code"]) for entry in errors]


def kept(answer, *names):
    return [entry for entry in answer["data"] if entry["task"] in names]


def test_a_task_that_is_not_there_spoils_no_other(client):
    answer = ask(client, ["nobody", "all"])
    assert lost(answer) == [(index, "nobody", 404) for index in range(3)]
    assert kept(answer, "all") == alone(client, "all")
    error = error_of(client.post("/v1/classify", json={"task": "nobody", "input": "no"}), 404)
    assert kept(answer, "nobody")[0]["error"] == error


@pytest.mark.parametrize("task", ["all", "mood"])
def test_a_task_that_no_worker_can_load_spoils_no_other(client, engine, registry, task):
    """Not those that share its engine request either."""
    names = ["all", "base", "mood"]
    engine.unavailable.add(registry.get(task).digest)
    answer = ask(client, names)
    engine.unavailable.clear()
    assert lost(answer) == [(index, task, 503) for index in range(3)]
    others = [name for name in names if name != task]
    assert kept(answer, *others) == by_text([alone(client, name) for name in others])


def test_what_is_computed_for_a_task_that_is_lost_is_told_all_the_same(client, engine, registry):
    engine.unavailable.add(registry.get("mood").digest)
    answer = ask(client, ["mood", "base"], "no")
    engine.unavailable.clear()
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": CACHED_TOKENS}


def test_a_text_too_long_for_one_task_is_answered_by_the_others(client, registry, tokenizer):
    """The longest label of `topics` leaves a token less than that of `mood`."""
    words = MAX_MODEL_LEN - len(token_ids(tokenizer, TOPIC.render("")))
    texts = ["no", " good" * words]
    answer = ask(client, ["topics", "mood"], texts)
    assert lost(answer) == [(1, "topics", 422)]
    assert kept(answer, "mood") == alone(client, "mood", texts)
    assert kept(answer, "topics")[:1] == alone(client, "topics", "no")


def test_truncated_each_is_cut_as_alone(client):
    texts = ["no", "good " * 100]
    answer = ask(client, NAMES, texts, truncate=True)
    assert answer["data"] == by_text([alone(client, n, texts, truncate=True) for n in NAMES])


@pytest.mark.parametrize(
    ("tasks", "text", "status"),
    [
        (["nobody", "no-one"], "no", 404),
        (["all", "mood"], "good " * 100, 422),
        (["nobody", "all"], "good " * 100, 422),
        (["nobody", "other"], "no", 503),
    ],
)
def test_where_nothing_can_be_answered_the_error_is_the_answer(
    client, engine, registry, tasks, text, status
):
    """Of several the one of the highest status: it may pass by itself."""
    engine.unavailable.add(registry.get("other").digest)
    response = client.post("/v1/classify", json={"tasks": tasks, "input": text})
    engine.unavailable.clear()
    assert error_of(response, status)
    assert ("retry-after" in response.headers) == (status == 503)


def test_a_task_replaced_meanwhile_is_answered_by_the_new_one(
    client, engine, registry, monkeypatch
):
    newer, asked = registry.get("other"), []
    engine.unavailable.add(registry.get("all").digest)
    monkeypatch.setattr(
        TaskRegistry, "successor", lambda self, task: asked.append(task.name) or newer
    )
    answer = ask(client, ["all", "mood"])
    engine.unavailable.clear()
    assert asked == ["all"] and lost(answer) == []
    assert {entry["task_digest"] for entry in kept(answer, "all")} == {newer.digest}
    assert kept(answer, "mood") == alone(client, "mood")


# -- what is refused


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], f"0 tasks, expected 1 to {MAX_TASKS}"),
        (["t"] * (MAX_TASKS + 1), f"{MAX_TASKS + 1} tasks, expected 1 to {MAX_TASKS}"),
        (["all", "all"], "task 1 repeats 'all'; name each once"),
        (["all", 7], "task 1 is a int, expected its name"),
        (["x" * 129], "task 0 has 129 characters, names have at most 128"),
        ("all", "is 'all', expected a list of names, or \"*\" for all there are"),
        ({"all": 1}, 'is a dict, expected a list of names, or "*" for all there are'),
    ],
    ids="none too-many twice no-name long-name one-name object".split(),
)
def test_tasks_that_are_no_list_of_names_are_422(client, tasks, message):
    error = refused(client, 422, tasks=tasks, input="text")
    assert error["message"] == f"tasks: Value error, {message}"
    assert error["param"] == "tasks"


@pytest.mark.parametrize("field", ["task", "model"])
def test_a_task_beside_tasks_is_422(client, field):
    error = refused(client, 422, tasks=["all"], input="text", **{field: "all"})
    assert "both given, expected one of them" in error["message"]


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ("MAX_SCORES", "2 texts with 7 labels each make 14 scores, expected at most 3; "),
        ("MAX_RESULTS", "2 texts for 2 tasks make 4 results, expected at most 3; "),
    ],
)
def test_more_than_a_request_may_have_is_422(client, engine, monkeypatch, bound, message):
    monkeypatch.setattr(f"api.http.asked.{bound}", 3)
    error = refused(client, 422, tasks=["all", "topics"], input=["one", "two"])
    assert error["message"] == message + "send fewer texts at once"
    assert engine.prompts == []


def test_a_star_for_too_many_is_422_and_for_none_404(client, monkeypatch):
    monkeypatch.setattr("api.http.asked.MAX_TASKS", 2)
    message = refused(client, 422, tasks="*", input="text")["message"]
    assert message.startswith('"*" stands for 6 tasks here, expected at most 2 in a request; ')
    monkeypatch.setattr(AllowedTasks, "tasks", {})
    monkeypatch.setattr(TaskRegistry, "tasks", {})
    assert "no task is loaded" in refused(client, 404, tasks="*", input="text")["message"]


# -- what is told of it


def value(name, **labels):
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_each_task_is_counted_and_those_that_are_lost_by_their_own_error(client, engine, registry):
    def counted():
        return np.array(
            [
                value("ifedicl:request_total", task="all", status="200"),
                value("ifedicl:request_total", task="other", status="503"),
                value("ifedicl:request_errors_total", task="other", kind="TaskUnavailableError"),
                value("ifedicl:request_errors_total", task="", kind="TaskNotFoundError"),
                value("ifedicl:texts_total", task="all"),
                value("ifedicl:texts_total", task="other"),
                value("ifedicl:texts_total", task="mood"),
                value("ifedicl:cached_tokens_total", task="mood"),
                value("ifedicl:top_score_count", task="all"),
            ]
        )

    engine.unavailable.add(registry.get("other").digest)
    before = counted()
    answer = ask(client, ["all", "other", "base", "mood", "nobody", "no-one"])
    engine.unavailable.clear()
    shared = sum(entry["prompt_tokens"] for entry in kept(answer, "mood"))
    assert (counted() - before).tolist() == [1, 1, 1, 1, 3, 0, 3, shared, 3]
    assert value("ifedicl:request_total", task="nobody", status="404") == 0


def test_the_log_names_tasks_within_reason(client, engine, registry, logged):
    engine.unavailable.add(registry.get("other").digest)
    ask(client, [*NAMES, *(f"stranger-{number}" for number in range(20))], "no")
    engine.unavailable.clear()
    (line,) = [record for record in logged.records if record.name == "vllm.ifedicl.access"]
    assert (line.task, line.lost, line.texts) == (",".join(NAMES), "other", 1)


def test_an_engine_request_names_its_first_task(registry, tokenizer):
    named = []

    class Named(FakeEngine):
        async def token_scores(self, prompt_ids, request):
            named.append(task_of(new_request_id()))
            return await super().token_scores(prompt_ids, request)

    with running(application(registry, tokenizer, Named())) as client:
        ask(client, ["mood", "base", "all"], "no")
    assert sorted(named) == ["all", "mood"]
