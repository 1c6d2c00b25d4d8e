"""`make demo` and `make serve`, as the README has them. Apart from its other commands, which take
as long, so that two processes share the work."""

import json
import os
import subprocess

import pytest

from tests.processes import free_port, wait_until_healthy
from tests.readme import BLOCKS, ROOT, run


@pytest.fixture(scope="module")
def demo() -> dict:
    """What `make demo` reports."""
    assert "make demo\n" in BLOCKS
    (ROOT / "demo" / "report.json").unlink(missing_ok=True)
    output = run("make demo")
    assert "curl http" in output and "make serve" in output
    return json.loads((ROOT / "demo" / "report.json").read_text())


def test_demo_reports_three_ways_on_the_same_texts_and_adaptation_helps(demo):
    assert set(demo) == {"accuracy", "log_loss", "n_test"}
    assert set(demo["accuracy"]) == set(demo["log_loss"]) == {"zero_shot", "few_shot", "adapted"}
    assert demo["accuracy"]["adapted"] > demo["accuracy"]["zero_shot"]
    assert demo["log_loss"]["adapted"] < demo["log_loss"]["zero_shot"]


def test_make_serve_answers_the_curl_line(demo):
    curl = next(block for block in BLOCKS if block.startswith("curl "))
    port = free_port()
    server = subprocess.Popen(
        ["make", "serve", f"PORT={port}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server)
        answer = json.loads(run(curl.replace("8000", str(port))))
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=60)
    assert [result["label"] for result in answer["data"]] == ["delivery", "password"]
