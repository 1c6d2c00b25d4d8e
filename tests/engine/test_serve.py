"""`ifedicl serve` as users run it: its own process, compiled engine, real HTTP, fresh artifacts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from bench.random_tasks import random_task
from calibration.hooked import injected, load_model
from calibration.score import label_log_probs
from ifedicl_serve.injection import adapted_mask
from ifedicl_serve.prompt import label_trie
from tests.processes import ifedicl_serve

ADMIN_KEY = "of-the-operator"
LABELS = ("card", "card payment", "cash", "exchange rate")
TEXTS = [f"question number {number} about my card and {number * 7} euros" for number in range(40)]


@pytest.fixture(scope="module")
def model(models):
    return models["llama"]


@pytest.fixture(scope="module")
def tasks(model, tmp_path_factory):
    """Two good artifacts, one damaged and one for another model."""
    folder = tmp_path_factory.mktemp("served")
    good = {
        name: random_task(model, folder / name, seed, labels=LABELS)
        for seed, name in enumerate(("alpha", "beta"))
    }
    random_task(model, folder / "damaged", 3)
    vectors = folder / "damaged" / "vectors.safetensors"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    random_task(Path(__file__).parents[2] / "examples" / "tiny_qwen2", folder / "foreign", 4)
    return folder, good


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def server(model, tasks, log):
    """The server's base URL, once it is healthy."""
    keys = ("--api-key", "secret", "--admin-key", ADMIN_KEY)
    with ifedicl_serve(model, tasks[0], log, *keys) as url:
        yield url


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(
        base_url=server, timeout=60, headers={"Authorization": "Bearer secret"}
    ) as client:
        yield client


def served(client, task: str) -> np.ndarray:
    """Log-probabilities [texts, labels] in the task's label order."""
    response = client.post("/v1/classify", json={"task": task, "input": TEXTS})
    assert response.status_code == 200, response.text
    by_label = [
        {score["label"]: score["score"] for score in result["scores"]}
        for result in response.json()["data"]
    ]
    return np.log([[scores[label] for label in LABELS] for scores in by_label])


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_served_probabilities_are_those_of_calibration(client, model, tasks, name):
    artifact = tasks[1][name]
    spec = artifact.spec
    network = load_model(str(model), dtype="fp32", device="cpu")
    trie = label_trie(network.tokenizer, spec.prompt, spec.verbalizations)
    mask = adapted_mask(spec.num_layers, spec.layers, spec.sites)
    with injected(network, artifact.context_vector, artifact.coefficients, mask):
        expected = label_log_probs(network, [spec.prompt.render(text) for text in TEXTS], trie)
    np.testing.assert_allclose(served(client, name), expected, atol=1e-4)


def test_concurrent_requests_for_two_tasks_do_not_mix(client):
    alone = {name: served(client, name) for name in ("alpha", "beta")}
    assert not np.allclose(alone["alpha"], alone["beta"], atol=0.01)
    names = ("alpha", "beta") * 4
    with ThreadPoolExecutor(len(names)) as pool:
        results = pool.map(lambda name: served(client, name), names)
        for name, scores in zip(names, results, strict=True):
            np.testing.assert_allclose(scores, alone[name], atol=1e-4)


def test_the_prefix_cache_is_used_within_a_task_and_never_across(client):
    text = "card " * 150  # over one block of 128 tokens

    def cached_tokens(task: str) -> int:
        body = {"task": task, "input": text}
        usage = client.post("/v1/classify", json=body).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    assert cached_tokens("alpha") == 0
    assert cached_tokens("beta") == 0
    assert cached_tokens("alpha") >= 128


def test_bad_artifacts_are_listed_with_their_reason_and_stop_nothing(client):
    listed = {task["id"]: task for task in client.get("/v1/tasks").json()["data"]}
    assert [name for name, task in listed.items() if task["status"] == "ready"] == ["alpha", "beta"]
    assert "content does not match the SHA-256" in listed["damaged"]["reason"]
    assert "calibrated on another model" in listed["foreign"]["reason"]


def test_errors_keep_their_status_behind_vllms_own_handlers(client):
    def status(**body) -> int:
        response = client.post("/v1/classify", json=body)
        assert response.json()["error"]["code"] == response.status_code
        return response.status_code

    assert status(task="nobody", input="text") == 404
    assert status(task="alpha", input="") == 422
    assert status(task="alpha", input="word " * 1000) == 422
    json_header = {"Content-Type": "application/json"}
    assert client.post("/v1/classify", content=b"{", headers=json_header).status_code == 400


def test_vllms_own_endpoints_and_flags_are_there(client, server):
    assert httpx.post(f"{server}/v1/classify", json={}).status_code == 401  # --api-key
    assert client.get("/health").status_code == 200
    assert client.get("/docs").status_code == 200
    assert "vllm:request_success_total" in client.get("/metrics").text
    assert client.get("/v1/models").json()["data"][0]["max_model_len"] == 256


def test_vllms_own_classify_route_is_closed_because_the_api_key_does_not_guard_it(server):
    response = httpx.post(f"{server}/classify", json={"model": "alpha", "input": "my card"})
    assert response.status_code == 404
    assert "/v1/classify" in response.json()["error"]["message"]


def test_the_admin_key_opens_every_route_and_an_api_key_only_those_that_change_nothing(server):
    def statuses(key: str) -> list[int]:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=server, headers=headers) as client:
            responses = [
                client.get("/v1/tasks"),
                client.post("/v1/tasks/reload"),
                client.put("/v1/tasks/alpha", content=b"x"),
                client.delete("/v1/tasks/nobody"),
            ]
        return [response.status_code for response in responses]

    assert statuses(ADMIN_KEY) == [200, 200, 415, 404]
    assert statuses("secret") == [200, 403, 403, 403]
    assert statuses("neither") == [401] * 4


def test_the_admin_key_is_in_no_log(server, log):
    assert ADMIN_KEY not in log.read_text()
