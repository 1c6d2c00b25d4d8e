"""Waiting for real servers, for every test that starts one."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
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
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "ifedicl"), "serve", "--model", str(model),
        "--tasks", str(tasks), "--port", str(port), "--dtype", "float32",
        "--max-model-len", "256", *flags,
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    except TimeoutError as error:
        pytest.fail(f"{error}\n{log.read_text()[-3000:]}")
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
