"""Tasks that come and go under `ifedicl serve` with two API processes, over real HTTP."""

import shutil
import threading
import time
from collections import defaultdict

import httpx
import numpy as np
import pytest

from bench.random_tasks import random_task
from tests.processes import ifedicl_serve

TEXT = "my card has not arrived"
LIMIT_S = 60
CLIENTS, REPLACEMENTS = 4, 12
ADMIN = {"Authorization": "Bearer of-the-operator"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Empty when the server starts."""
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def url(models, folder, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    flags = ("--enforce-eager", "--api-server-count", "2", "--admin-key", "of-the-operator")
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


def test_a_task_is_uploaded_replaced_and_deleted_over_http(url, models, folder, tmp_path):
    """One connection is one process, which serves what it answered; the other one follows."""
    made = tmp_path / "sent"

    def upload(seed: int) -> tuple[int, str]:
        digest = random_task(models["llama"], made, seed=seed).digest
        files = {path.name: path.read_bytes() for path in made.iterdir()}
        response = client.put("/v1/tasks/sent", files=files)
        assert response.json()["digest"] == digest
        return response.status_code, digest

    def served() -> httpx.Response:
        return client.post("/v1/classify", json={"task": "sent", "input": TEXT})

    with httpx.Client(base_url=url, headers=ADMIN, timeout=60) as client:
        for seed, status in ((6, 201), (7, 200)):
            answered, digest = upload(seed)
            assert answered == status
            assert serves(digest)(served())
            until_all(url, "sent", serves(digest))
        assert client.delete("/v1/tasks/sent").status_code == 204
        assert served().status_code == 404
        until_all(url, "sent", lambda answer: answer.status_code == 404)
        assert client.delete("/v1/tasks/sent").status_code == 404
    assert not (folder / "sent").exists()


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
