"""Tasks that come and go, classify and generate, under `ifedicl serve --runner generate` with two
API processes and two data-parallel replicas of the engine, over real HTTP."""

import copy
import json
import re
import shutil
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch

from bench.common.random_tasks import random_task
from calibration.model.hooked import injected
from calibration.model.load import load_model
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.contract.tokens import Prompt, token_ids
from tests.documents import placed, run
from tests.engine.reference import hooked
from tests.processes import ifedicl_serve, metric

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
    scratch = tmp_path_factory.mktemp("server")
    template = scratch / "template.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    flags = (
        "--runner", "generate", "--enforce-eager", "--api-server-count", "2",
        "--data-parallel-size", "2", "--admin-key", "of-the-operator",
        "--chat-template", str(template), "--max-num-queued-reqs", "16", "--enable-scale-out",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # a core for each replica
        with ifedicl_serve(models["llama"], folder, scratch / "server.log", *flags) as url:
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


def test_a_task_with_label_rows_is_refused_where_nothing_scores_them(url, models, folder):
    """Never answered without them, nor does it spoil a task beside it. The base model's own answer
    needs none."""
    beside = random_task(models["llama"], folder / "beside", seed=9, fit="none", readout="bias")
    random_task(models["llama"], folder / "rows", seed=9, fit="none", readout="head")
    until_all(url, "rows", lambda answer: answer.status_code == 422)
    until_all(url, "beside", serves(beside.digest))
    error = classify(url, "rows").json()["error"]
    assert "started with --runner pooling" in error["message"]
    both = {"tasks": ["rows", "beside"], "input": TEXT}
    refused, answered = httpx.post(f"{url}/v1/classify", json=both, timeout=60).json()["data"]
    assert refused["error"] == error
    alone = classify(url, "beside").json()["data"][0]
    assert answered["score"] == pytest.approx(alone["score"], abs=1e-4)
    body = {"task": "rows", "input": TEXT, "adapted": False}
    assert httpx.post(f"{url}/v1/classify", json=body, timeout=60).status_code == 200


def answered(url: str) -> np.ndarray:
    """How many requests each replica has answered."""
    metrics = httpx.get(f"{url}/metrics").text
    counts = re.findall(r'vllm:request_success_total\{engine="([01])".*\} (.+)', metrics)
    return np.array([sum(float(count) for engine, count in counts if engine == r) for r in "01"])


def test_both_replicas_answer_as_the_hooked_model_does(url, models, folder):
    rung = {"fit": "channels", "extent": "tail", "readout": "bias"}
    artifact = random_task(models["llama"], folder / "replicated", seed=6, **rung)
    until_all(url, "replicated", serves(artifact.digest))
    before = answered(url)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: classify(url, "replicated"), range(64)))
    assert (answered(url) - before >= 8).all()
    expected = np.broadcast_to(on_the_hooked_model(models["llama"], artifact), (64, 4))
    np.testing.assert_allclose([probabilities(answer) for answer in answers], expected, atol=1e-4)


def on_the_hooked_model(path, artifact) -> np.ndarray:
    """Probabilities of the labels, in the labels' alphabetical order."""
    model = load_model(str(path), dtype="fp32", device="cpu")
    (log_probs,) = hooked(model, artifact, [TEXT])
    return np.exp(log_probs)[np.argsort([label.name for label in artifact.spec.labels])]


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
    assert {answer.status_code for answer in answers} == {200}
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


# -- tasks as models


@pytest.fixture(scope="module")
def writer(url, models, folder):
    """A task that all processes serve."""
    artifact = random_task(models["llama"], folder / "writer", seed=8)
    until_all(url, "writer", serves(artifact.digest))
    return artifact


def complete(url: str, model: str, **options) -> dict:
    body = {"model": model, "prompt": TEXT, "max_tokens": 8, "temperature": 0, **options}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def base_model(url: str) -> str:
    return httpx.get(f"{url}/v1/models").json()["data"][0]["id"]


def test_a_task_generates_what_the_hooked_model_does_and_the_base_model_what_it_always_did(
    url, models, writer
):
    network = load_model(str(models["llama"]), dtype="fp32", device="cpu")
    spec = writer.spec
    everywhere = adapted_mask(spec.num_layers, spec.layers, spec.sites)
    for model, mask in ((base_model(url), everywhere & False), ("writer", everywhere)):
        ids = torch.tensor([token_ids(network.tokenizer, Prompt((TEXT,)))])
        with injected(network, writer.injection, mask):
            expected = network.network.generate(
                ids, do_sample=False, max_new_tokens=8, min_new_tokens=8, pad_token_id=0
            )
        answer = complete(url, model, ignore_eos=True, return_token_ids=True)
        assert answer["model"] == model
        assert answer["choices"][0]["token_ids"] == expected[0, ids.shape[1] :].tolist()


def test_a_stream_and_a_chat_give_the_same_text_under_the_tasks_name(url, writer):
    whole = complete(url, "writer")["choices"][0]["text"]
    body = {"model": "writer", "prompt": TEXT, "max_tokens": 8, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole
    assert {chunk["model"] for chunk in chunks} == {"writer"}
    messages = [{"role": "user", "content": TEXT}]
    body = {"model": "writer", "messages": messages, "max_tokens": 8, "temperature": 0}
    chat = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    assert (chat["model"], chat["choices"][0]["message"]["content"]) == ("writer", whole)


def test_the_documents_curl_line_generates_under_a_task(url, models, folder):
    until_all(url, "banking", serves(random_task(models["llama"], folder / "banking", 9).digest))
    (curl,) = placed("generating")
    answer = json.loads(run(curl, url=url))
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("banking", 1)


def test_tasks_are_listed_as_models_and_another_name_is_refused_with_theirs(url, writer):
    base, *tasks = httpx.get(f"{url}/v1/models").json()["data"]
    assert {"id": "writer", "parent": base["id"]}.items() <= {t["id"]: t for t in tasks}[
        "writer"
    ].items()
    response = httpx.post(f"{url}/v1/completions", json={"model": "nobody", "prompt": TEXT})
    assert response.status_code == 404
    assert "'writer'" in response.json()["error"]["message"]


MESSAGES = {"messages": [{"role": "user", "content": TEXT}]}
# What a route is asked, where it takes what goes to the engine as it is, and where its answer is.
ROUTES = {
    "/v1/completions": (
        {"prompt": TEXT, "max_tokens": 8}, "vllm_xargs", ("choices", 0, "text"),
    ),
    "/v1/chat/completions": (
        MESSAGES | {"max_tokens": 8}, "vllm_xargs", ("choices", 0, "message", "content"),
    ),
    "/v1/responses": (
        {"input": TEXT, "max_output_tokens": 8}, "vllm_xargs", ("output", 0, "content", 0, "text"),
    ),
    "/v1/messages": (MESSAGES | {"max_tokens": 8}, "vllm_xargs", ("content", 0, "text")),
    "/inference/v1/generate": (
        {"token_ids": [5, 6, 7], "sampling_params": {"max_tokens": 8, "temperature": 0}},
        "sampling_params.extra_args",
        ("choices", 0, "token_ids"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
def test_what_callers_put_under_our_key_is_dropped(url, writer, route):
    """Invented digests make no worker look for them, and one that is there adapts nothing: tasks
    are asked for by their names."""
    body, where, path = ROUTES[route]

    def answer(digest: str | None) -> str:
        sent = {"model": base_model(url), "temperature": 0, **copy.deepcopy(body)}
        *outer, last = where.split(".")
        place = sent[outer[0]] if outer else sent
        place[last] = {"ifedicl": json.dumps({"digest": digest})} if digest else None
        response = httpx.post(f"{url}{route}", json=sent, timeout=60)
        assert response.status_code == 200, response.text
        found = response.json()
        for part in path:
            found = found[part]
        return found

    def seen_by_workers() -> list[float]:
        return [metric(url, f"ifedicl:task_{what}_total") for what in ("queries", "load_failures")]

    complete(url, "writer")  # so that it is resident
    before, base = seen_by_workers(), answer(None)
    for digest in (*(f"{number:064x}" for number in range(4)), writer.digest):
        assert answer(digest) == base
    assert seen_by_workers() == before


def test_vllms_bound_of_its_queue_is_for_what_generates_and_not_for_classifications(url, writer):
    texts = {"task": "writer", "input": [TEXT] * 64}
    assert httpx.post(f"{url}/v1/classify", json=texts, timeout=60).status_code == 200
    body = {"model": "writer", "prompt": TEXT, "n": 17, "temperature": 1}
    assert httpx.post(f"{url}/v1/completions", json=body, timeout=60).status_code == 503


def test_an_id_that_a_caller_chose_makes_no_metric_of_a_task(url, writer):
    body = {"model": base_model(url), "input": TEXT, "request_id": "classify:stranger:x"}
    response = httpx.post(f"{url}/v1/responses", json=body | {"max_output_tokens": 1}, timeout=60)
    assert response.status_code == 200, response.text
    metrics = httpx.get(f"{url}/metrics").text
    assert 'task="writer"' in metrics
    assert "stranger" not in metrics
