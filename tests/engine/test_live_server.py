"""Tasks that come and go under `ifedicl serve` with two API processes and two data-parallel
replicas of the engine, over real HTTP."""

import re
import shutil
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from bench.random_tasks import random_task
from calibration.hooked import injected, load_model
from calibration.score import label_log_probs
from ifedicl_serve.injection import adapted_mask
from ifedicl_serve.prompt import label_trie
from tests.processes import ifedicl_serve

TEXT = "my card has not arrived"
LIMIT_S = 60
CLIENTS, REPLACEMENTS = 4, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Empty when the server starts."""
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def url(models, folder, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    flags = ("--enforce-eager", "--api-server-count", "2", "--data-parallel-size", "2")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # a core for each replica
        with ifedicl_serve(models["llama"], folder, log, *flags) as url:
            yield url


def classify(url: str, task: str) -> httpx.Response:
    """On a connection of its own, so that either API process may answer."""
    return httpx.post(f"{url}/v1/classify", json={"task": task, "input": TEXT}, timeout=60)


def until_all(url: str, task: str, condition) -> None:
    """Wait until ten answers in a row, from either process, are as wanted."""
    deadline = time.monotonic() + LIMIT_S
    agreed = 0
    while agreed < 10:
        assert time.monotonic() < deadline, classify(url, task).text
        agreed = agreed + 1 if condition(classify(url, task)) else 0


def serves(digest: str):
    return lambda answer: answer.status_code == 200 and answer.json()["task_digest"] == digest


def probabilities(answer: httpx.Response) -> np.ndarray:
    scores = answer.json()["data"][0]["scores"]
    return np.array([score["score"] for score in sorted(scores, key=lambda s: s["label"])])


def test_every_process_follows_the_folder(url, models, folder):
    assert classify(url, "task").status_code == 404
    first = random_task(models["llama"], folder / "task", seed=1).digest
    until_all(url, "task", serves(first))
    second = random_task(models["llama"], folder / "task", seed=2).digest
    until_all(url, "task", serves(second))
    shutil.rmtree(folder / "task")
    until_all(url, "task", lambda answer: answer.status_code == 404)


def answered(url: str) -> np.ndarray:
    """How many requests each replica has answered."""
    metrics = httpx.get(f"{url}/metrics").text
    counts = re.findall(r'vllm:request_success_total\{engine="([01])".*\} (.+)', metrics)
    return np.array([sum(float(count) for engine, count in counts if engine == r) for r in "01"])


def test_both_replicas_answer_as_the_hooked_model_does(url, models, folder):
    artifact = random_task(models["llama"], folder / "replicated", seed=6)
    until_all(url, "replicated", serves(artifact.digest))
    before = answered(url)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: classify(url, "replicated"), range(64)))
    assert (answered(url) - before >= 8).all()
    expected = np.broadcast_to(on_the_hooked_model(models["llama"], artifact), (64, 4))
    np.testing.assert_allclose([probabilities(answer) for answer in answers], expected, atol=1e-4)


def on_the_hooked_model(path, artifact) -> np.ndarray:
    """Probabilities of the labels, in the labels' alphabetical order."""
    spec, model = artifact.spec, load_model(str(path), dtype="fp32", device="cpu")
    trie = label_trie(model.tokenizer, spec.prompt, spec.verbalizations)
    mask = adapted_mask(spec.num_layers, spec.layers, spec.sites)
    with injected(model, artifact.context_vector, artifact.coefficients, mask):
        (log_probs,) = label_log_probs(model, [spec.prompt.render(TEXT)], trie)
    return np.exp(log_probs)[np.argsort([label.name for label in spec.labels])]


def test_no_request_mixes_two_versions_while_a_task_is_replaced(url, models, folder):
    """Every answer has the scores that its digest has alone."""
    alone = {}
    for seed in (3, 4):
        digest = random_task(models["llama"], folder / "hot", seed=seed).digest
        until_all(url, "hot", serves(digest))
        alone[digest] = probabilities(classify(url, "hot"))
    answers, done = [], threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(classify(url, "hot"))

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for number in range(REPLACEMENTS):
        random_task(models["llama"], folder / "hot", seed=3 + number % 2)
        time.sleep(0.5)
    done.set()
    for client in clients:
        client.join()
    assert {answer.status_code for answer in answers} <= {200, 503}
    by_digest = defaultdict(list)
    for answer in answers:
        if answer.status_code == 200:
            by_digest[answer.json()["task_digest"]].append(probabilities(answer))
    assert by_digest.keys() == alone.keys()
    for digest, scores in by_digest.items():
        np.testing.assert_allclose(scores, np.broadcast_to(alone[digest], np.shape(scores)), 1e-4)


def test_workers_count_what_they_load(url, models, folder):
    digest = random_task(models["llama"], folder / "counted", seed=5).digest
    until_all(url, "counted", serves(digest))
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("ifedicl:"))
    assert float(values["ifedicl:task_loads_total"]) >= 1
    assert float(values["ifedicl:task_queries_total"]) >= 10
    assert float(values["ifedicl:resident_tasks"]) >= 1
