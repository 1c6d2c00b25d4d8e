"""`ifedicl serve` under all kinds of callers, callers that leave and a signal: its own processes,
real HTTP, and the engine's own counters. A dying engine ends `test_serve.py`."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from bench.common.random_tasks import random_task
from bench.soak import FLAGS, SLOTS, make_tasks, soaked
from tests.processes import in_engine, metric, served, until

LABELS = ("card", "card payment", "cash", "exchange rate")  # several tokens: two stages a text
# Some seconds of work for the tiny model.
LONG = {"task": "alpha", "input": [f"{number} " + "card " * 200 for number in range(800)]}


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def tasks(models, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    make_tasks(models["llama"], folder)
    random_task(models["llama"], folder / "alpha", 0, labels=LABELS)
    return folder


@pytest.fixture(scope="module")
def server(models, tasks, log):
    """URL and process of a server that the last test ends."""
    flags = ["--enforce-eager", "--log-level", "INFO", "--logging-config.formatter", "json"]
    flags += ["--request-timeout", "120", "--shutdown-timeout", "120"]  # for the slowest machine
    with served(models["llama"], tasks, log, *FLAGS, *flags) as url_and_process:
        yield url_and_process


def test_nothing_is_lost_mixed_up_or_left_behind(models, tasks, server):
    """A short soak (bench/soak.py, twenty minutes there) of a server that is asked for the first
    time: good and bad callers at once while tasks come, change and go. Only the long one tells a
    leak."""
    url, process = server
    record = soaked(models["llama"], tasks, url, psutil.Process(process.pid), 0.3)
    assert record["wrong"] == {}
    headline = record["headline"]
    assert headline["requests"] > 100
    assert headline["changes of tasks"] > 5
    assert headline["requests that the server did not count"] == 0
    assert headline["texts left in flight"] == 0
    assert headline["requests left in the engine"] == 0
    assert headline["tasks in slots"] <= SLOTS


def test_work_that_nobody_waits_for_leaves_the_engine(server):
    url, _ = server
    until(lambda: in_engine(url) == 0)
    classified = metric(url, "vllm:request_success_total")
    hung_up = metric(url, "ifedicl:request_errors_total", kind="ClientDisconnect")
    # A client that hangs up.
    body = json.dumps(LONG).encode()
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        until(lambda: in_engine(url) > 10)
    until(lambda: in_engine(url) == 0)
    assert metric(url, "ifedicl:requests_in_flight") == 0
    assert metric(url, "ifedicl:request_errors_total", kind="ClientDisconnect") == hung_up + 1
    classified = metric(url, "vllm:request_success_total") - classified
    assert classified < len(LONG["input"])  # so most of the work was never done
    # A deadline.
    response = httpx.post(f"{url}/v1/classify", json={**LONG, "timeout": 1.0}, timeout=60)
    assert response.status_code == 504
    until(lambda: in_engine(url) == 0)
    short = {"task": "alpha", "input": "my card"}
    assert httpx.post(f"{url}/v1/classify", json=short).status_code == 200


def test_a_signal_lets_what_is_in_flight_finish_and_takes_no_more(server, log):
    url, process = server
    children = psutil.Process(process.pid).children(recursive=True)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{url}/v1/classify", json=LONG, timeout=120)
        until(lambda: in_engine(url) > 10)
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{url}/ready").json() == {"status": "draining"})
        assert httpx.get(f"{url}/health").status_code == 200  # alive: not to be restarted
        late = httpx.post(f"{url}/v1/classify", json={"task": "alpha", "input": "my card"})
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert len(running.result().json()["data"]) == len(LONG["input"])
    assert process.wait(timeout=60) == 0
    assert psutil.wait_procs(children, timeout=30)[1] == []
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    (answered,) = [line for line in lines if line.get("texts") == len(LONG["input"])
                   and line["status"] == 200]  # fmt: skip
    assert answered["task"] == "alpha"
    assert len(answered["request_id"]) == 32
