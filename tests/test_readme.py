"""The README's commands, run as they stand, in order."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import free_port, wait_until_healthy

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [block for block in BLOCKS if block.startswith(".venv/bin/ifedicl ")]


def run(command: str) -> str:
    """Run a block in the repository's root; fails the test with its output."""
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


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


def test_ifedicl_commands_run_in_the_order_of_the_page():
    assert [command.split()[1] for command in COMMANDS] == [
        "calibrate", "inspect", "evaluate", "export", "partition",
    ]  # fmt: skip
    shutil.rmtree(ROOT / "demo" / "readme", ignore_errors=True)
    for command in COMMANDS:
        run(command)


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


def test_make_test_is_the_other_set_up_command():
    assert "make test\n" in BLOCKS
    assert "pytest" in run("make --dry-run test")
