"""Starting real servers, waiting for them and asking how busy they are."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

START_LIMIT_S = 600


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(url: str, process: subprocess.Popen) -> None:
    """Until GET /health answers 200. Raises TimeoutError, also when the process has ended."""
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/health").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise TimeoutError(f"{url} is not healthy; the process ended with {process.poll()}")


def wait_for_port(port: int, process: subprocess.Popen) -> None:
    """Until something listens. Raises TimeoutError, also when the process has ended."""
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on {port}; the process ended with {process.poll()}")


@contextmanager
def ifedicl_serve(model: Path, tasks: Path, log: Path, *flags: str) -> Iterator[str]:
    """`ifedicl serve` in float32 in a process of its own: its base URL, once it is healthy."""
    with served(model, tasks, log, *flags) as (url, _):
        yield url


@contextmanager
def served(
    model: Path, tasks: Path, log: Path, *flags: str
) -> Iterator[tuple[str, subprocess.Popen]]:
    """As `ifedicl_serve`, with the process, for tests that end it themselves."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        str(Path(sys.executable).parent / "ifedicl"), "serve", "--model", str(model),
        "--tasks", str(tasks), "--port", str(port), "--dtype", "float32",
        "--max-model-len", "256", *flags,
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        wait_until_healthy(url, process)
        yield url, process
    except TimeoutError as error:
        pytest.fail(f"{error}\n{log.read_text()[-3000:]}")
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def metric(url: str, name: str, **labels: str) -> float:
    """The sum of a metric's series with these labels."""
    text = httpx.get(f"{url}/metrics").text
    series = re.findall(rf"^{re.escape(name)}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(value) for found, value in series if all(one in found for one in wanted))


def in_engine(url: str) -> float:
    """Requests that the engine works on or holds back."""
    return metric(url, "vllm:num_requests_running") + metric(url, "vllm:num_requests_waiting")


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for it. Raises AssertionError when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
