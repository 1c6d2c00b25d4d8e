"""`POST /v1/classify`: values, order and token counts."""

import numpy as np
import pytest

from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.schema import ClassifyResponse
from tests.api.conftest import MAX_MODEL_LEN
from tests.api.fake_engine import CACHED_TOKENS, UNADAPTED, log_probs

TEXTS = ["it is wonderful", "a long and boring film", "no", "the end<|endoftext|> is <s> bad"]


def post(client, path="/v1/classify", **body):
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def classify(client, task, texts, **options):
    return post(client, task=task, input=texts, **options)["data"]


def expected(registry, tokenizer, name, text, digest=None):
    """Label -> probability, worked out node by node from the engine's arithmetic."""
    task = registry.get(name)
    prompt = str(task.spec.prompt.render(text))
    prompt = tokenizer(prompt, split_special_tokens=True).input_ids
    choices = np.concatenate(
        [log_probs(digest or task.digest, [*prompt, *n.path], n.children) for n in task.trie.nodes]
    )
    scores = np.exp(task.trie.paths.astype(np.float64) @ choices)
    return dict(zip(task.trie.labels, scores, strict=True))


@pytest.mark.parametrize("name", ["sst2", "topics"])
def test_every_label_gets_the_probability_the_engine_implies(client, registry, tokenizer, name):
    for result, text in zip(classify(client, name, TEXTS), TEXTS, strict=True):
        scores = {entry["label"]: entry["score"] for entry in result["scores"]}
        assert scores == pytest.approx(expected(registry, tokenizer, name, text), abs=1e-6)


@pytest.mark.parametrize("name", ["sst2", "topics"])
def test_unadapted_is_the_base_models_answer_to_the_same_prompt(client, registry, tokenizer, name):
    response = post(client, task=name, input=TEXTS, adapted=False)
    assert response["adapted"] is False and response["model"] == name
    for result, text in zip(response["data"], TEXTS, strict=True):
        scores = {entry["label"]: entry["score"] for entry in result["scores"]}
        base = expected(registry, tokenizer, name, text, UNADAPTED)
        assert scores == pytest.approx(base, abs=1e-6)
        assert scores != pytest.approx(expected(registry, tokenizer, name, text), abs=1e-3)


def test_adapted_is_the_default(client):
    response = post(client, task="sst2", input=TEXTS)
    assert response["adapted"] is True
    assert response["data"] == post(client, task="sst2", input=TEXTS, adapted=True)["data"]


def test_a_task_the_engine_lost_is_answered_unadapted(client, engine, registry):
    """No worker needs its artifact for that."""
    engine.unavailable.add(registry.get("fatal").digest)
    assert client.post("/v1/classify", json={"task": "fatal", "input": "no"}).status_code == 503
    post(client, task="fatal", input="no", adapted=False)
    engine.unavailable.clear()


def test_the_task_topics_needs_several_nodes(registry):
    """Otherwise the tests here would not cover inner nodes."""
    assert len(registry.get("topics").trie.nodes) == 3


@pytest.mark.parametrize("name", ["sst2", "topics"])
def test_scores_sum_to_1_and_come_best_first(client, name):
    for result in classify(client, name, TEXTS):
        scores = [entry["score"] for entry in result["scores"]]
        assert sum(scores) == pytest.approx(1, abs=1e-6)
        assert scores == sorted(scores, reverse=True)
        assert result["scores"][0] == {"label": result["label"], "score": result["score"]}


def test_results_come_in_the_order_of_the_texts(client):
    forwards = classify(client, "topics", TEXTS)
    backwards = classify(client, "topics", TEXTS[::-1])
    assert [result["index"] for result in forwards] == list(range(len(TEXTS)))
    assert [result["scores"] for result in forwards] == [r["scores"] for r in backwards[::-1]]
    assert len({result["score"] for result in forwards}) == len(TEXTS)


def test_texts_in_a_list_are_scored_as_alone(client):
    together = classify(client, "topics", TEXTS)
    alone = [classify(client, "topics", text)[0] for text in TEXTS]
    assert [r["scores"] for r in together] == [r["scores"] for r in alone]


def test_one_text_is_a_list_of_one(client):
    assert classify(client, "sst2", TEXTS[0]) == classify(client, "sst2", [TEXTS[0]])


def test_two_tasks_score_a_text_differently(client):
    one, two = (classify(client, name, TEXTS[0])[0]["scores"] for name in ("sst2", "fatal"))
    assert {entry["label"] for entry in one} == {entry["label"] for entry in two}
    assert one != two


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (5, 5), (99, 5), (None, 5)])
def test_top_k_keeps_the_best_labels(client, top_k, count):
    everything = classify(client, "topics", TEXTS[0])[0]
    (result,) = classify(client, "topics", TEXTS[0], top_k=top_k)
    assert result["scores"] == everything["scores"][:count]
    assert (result["label"], result["score"]) == (everything["label"], everything["score"])


def test_the_task_may_be_sent_as_model(client):
    by_model = post(client, model="sst2", input=TEXTS)
    by_task = post(client, task="sst2", input=TEXTS)
    assert by_model["data"] == by_task["data"]


def test_the_core_path_of_vllm_names_ours(client):
    """vLLM's API key guards /v1 alone, so tasks are not served beside it."""
    response = client.post("/classify", json={"model": "sst2", "input": TEXTS})
    assert response.status_code == 404
    assert "/v1/classify" in response.json()["error"]["message"]


def test_the_response_names_the_task_and_its_content(client, registry):
    response = post(client, task="sst2", input="fine")
    assert response["object"] == "list"
    assert response["model"] == "sst2"
    assert response["task_digest"] == registry.get("sst2").digest
    assert response["id"].startswith("classify-")
    assert response["id"] != post(client, task="sst2", input="fine")["id"]


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"adapted": False}])
def test_the_response_is_what_its_model_says(client, options):
    """It is not made of the model."""
    response = post(client, task="topics", input=TEXTS, **options)
    assert ClassifyResponse.model_validate(response, strict=True).model_dump() == response


@pytest.mark.parametrize("name", ["sst2", "topics"])
def test_usage_counts_each_prompt_once_whatever_the_trie(client, registry, tokenizer, name):
    response = post(client, task=name, input=TEXTS)
    prompt = registry.get(name).spec.prompt
    lengths = [len(token_ids(tokenizer, prompt.render(text))) for text in TEXTS]
    assert [result["prompt_tokens"] for result in response["data"]] == lengths
    assert response["usage"] == {
        "prompt_tokens": sum(lengths),
        "total_tokens": sum(lengths),
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS * len(TEXTS)},
    }


def test_the_engine_is_asked_once_per_node_after_the_prompt(client, engine, registry, tokenizer):
    engine.prompts.clear()
    classify(client, "topics", "fine")
    task = registry.get("topics")
    prompt = tokenizer(str(task.spec.prompt.render("fine"))).input_ids
    assert engine.prompts[0] == prompt
    assert sorted(engine.prompts) == sorted([*prompt, *node.path] for node in task.trie.nodes)


def test_a_text_may_name_the_placeholder(client, engine, tokenizer):
    engine.prompts.clear()
    classify(client, "sst2", "{text}")
    assert tokenizer.decode(engine.prompts[0]) == "Review: {text}\nSentiment:"


# -- truncation


def limit(registry, name):
    """Prompt tokens that leave room for the longest path to a node."""
    return MAX_MODEL_LEN - max(len(node.path) for node in registry.get(name).trie.nodes)


@pytest.mark.parametrize("name", ["sst2", "topics"])
@pytest.mark.parametrize(
    "text",
    ["good " * 100, "\U00013000" * 100, "good " * 30 + "\U00013000" * 5, "word" + " " * 300 + "x"],
    ids=["words", "byte tokens", "words, then byte tokens", "spaces"],
)
def test_truncate_cuts_the_text_and_never_the_template(
    client, engine, registry, tokenizer, name, text
):
    """A character of several byte tokens once made this loop for ever."""
    engine.prompts.clear()
    (result,) = classify(client, name, text, truncate=True)
    read = tokenizer.decode(engine.prompts[0])
    head, tail = registry.get(name).spec.prompt.template.split("{text}")
    assert read.startswith(head) and read.endswith(tail)
    assert text.startswith(read[len(head) : -len(tail)])
    assert result["prompt_tokens"] <= limit(registry, name)


def test_truncate_keeps_all_that_fits(client, registry):
    (result,) = classify(client, "sst2", "good " * 100, truncate=True)
    assert limit(registry, "sst2") - 1 <= result["prompt_tokens"] <= limit(registry, "sst2")


def test_truncate_leaves_a_text_that_fits_alone(client):
    assert classify(client, "sst2", TEXTS) == classify(client, "sst2", TEXTS, truncate=True)


@pytest.mark.parametrize("name", ["sst2", "topics"])
def test_a_text_that_just_fits_is_taken_with_every_label_path(
    client, engine, registry, tokenizer, name
):
    template = len(tokenizer(str(registry.get(name).spec.prompt.render(""))).input_ids)
    engine.prompts.clear()
    (result,) = classify(client, name, " good" * (limit(registry, name) - template))
    assert result["prompt_tokens"] == limit(registry, name)
    assert max(map(len, engine.prompts)) == MAX_MODEL_LEN
