"""The whole product in one run: calibrate a task, serve it with vLLM, classify over HTTP.

Run by `make demo`. Uses the commands a user would type and shows them; everything it makes is
under `demo/`. With `--serve` (`make serve`) it only serves what the last run calibrated.
"""

import argparse
import json
import math
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
MODEL = Path("examples/base_model")
TRAIN, TEST = Path("examples/banking/train.jsonl"), Path("examples/banking/test.jsonl")
DEMO = Path("demo")
TASKS, TASK = DEMO / "tasks", "banking"
REPORT, BASELINES, SERVER_LOG = DEMO / "report.json", DEMO / "evaluate.json", DEMO / "server.log"
SHOTS = 16
BATCH = 64
SHOWN = 8
START_LIMIT_S = 600  # a compiled engine starts in about a minute on two idle cores
# Over HTTP and in calibration's own scoring the same task must be equally good; bfloat16 in a
# different batch may move a borderline text or two.
AGREEMENT = 0.02

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--serve", action="store_true", help="only serve the last run's tasks")
    parser.add_argument("--port", type=int, default=8000, help="of --serve")
    options = parser.parse_args()
    os.chdir(ROOT)
    if options.serve:
        return serve_until_stopped(options.port)
    started = time.monotonic()
    try:
        demo()
    except (subprocess.CalledProcessError, httpx.HTTPError, RuntimeError) as error:
        console.print(f"[red]demo failed:[/] {error}")
        return 1
    console.print(f"\nDone in {time.monotonic() - started:.0f} s.")
    return 0


def demo() -> None:
    """Calibrate, serve, classify, compare, report."""
    DEMO.mkdir(exist_ok=True)
    step("1/4", f"Calibrating task {TASK!r} from {count(TRAIN)} labelled questions")
    ifedicl("calibrate", "--model", MODEL, "--data", TRAIN, "--out", TASKS / TASK,
            "--template", r"Text: {text}\nTopic:")  # fmt: skip
    step("2/4", f"Starting the server (log: {SERVER_LOG}) and scoring the unadapted rivals")
    with server(free_port()) as running:
        ifedicl("evaluate", "--model", MODEL, "--task", TASKS / TASK, "--data", TEST,
                "--train", TRAIN, "--shots", SHOTS, "--json", BASELINES)  # fmt: skip
        wait_until_healthy(running)
        step("3/4", f"Classifying {count(TEST)} held-out questions over HTTP at {running.url}")
        rows = [json.loads(line) for line in TEST.read_text(encoding="utf-8").splitlines()]
        results = classify(running.url, [row["text"] for row in rows])
    step("4/4", "Results")
    show_examples(rows, results)
    report = compare(rows, results)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    show_report(report)
    show_next_steps()


def ifedicl(*arguments: object) -> None:
    """Run an `ifedicl` command, shown as a user would type it."""
    console.print(f"[dim]$ {shell('ifedicl', *arguments)}[/]")
    subprocess.run([executable(), *map(str, arguments)], check=True)


def serve_command(port: int) -> list[str]:
    """The command that serves the demo's tasks."""
    return [executable(), "serve", "--model", str(MODEL), "--tasks", str(TASKS),
            "--port", str(port), "--max-model-len", "512"]  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A running `ifedicl serve`."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def server(port: int) -> Iterator[Server]:
    """`ifedicl serve` on a port, stopped at the end."""
    console.print(f"[dim]$ {shell('ifedicl', *serve_command(port)[1:])} &[/]")
    with SERVER_LOG.open("w") as log:
        process = subprocess.Popen(
            serve_command(port), stdout=log, stderr=subprocess.STDOUT, env=environment()
        )
        try:
            yield Server(f"http://127.0.0.1:{port}", process)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, and make it if it does not."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()


def wait_until_healthy(server: Server) -> None:
    """Wait for /health. Raises RuntimeError if the server ends or takes too long."""
    deadline = time.monotonic() + START_LIMIT_S
    with console.status("waiting for the engine (it compiles the model once)"):
        while server.process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"{server.url}/health").is_success:
                    return
            except httpx.TransportError:
                time.sleep(1)
    raise RuntimeError(f"the server did not start; see {SERVER_LOG}")


def classify(url: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Send texts in batches; returns one classification per text, in order."""
    results = []
    with httpx.Client(base_url=url, timeout=120) as client:
        for start in range(0, len(texts), BATCH):
            body = {"task": TASK, "input": list(texts[start : start + BATCH])}
            response = client.post("/v1/classify", json=body)
            response.raise_for_status()
            results += response.json()["data"]
    return results


def compare(rows: Sequence[dict[str, str]], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report: adapted as measured over HTTP, its rivals by `ifedicl evaluate`.

    Raises RuntimeError if the served task is not as good as calibration says it is.
    """

    offline = json.loads(BASELINES.read_text())["metrics"]
    truth = [row["label"] for row in rows]
    accuracy = fmean(result["label"] == label for result, label in zip(results, truth, strict=True))
    log_loss = -fmean(
        math.log(score_of(result, label)) for result, label in zip(results, truth, strict=True)
    )
    if abs(accuracy - offline["adapted"]["accuracy"]) > AGREEMENT:
        raise RuntimeError(
            f"served accuracy {accuracy:.3f} differs from calibration's "
            f"{offline['adapted']['accuracy']:.3f} by more than {AGREEMENT}"
        )
    rivals = ("zero_shot", "few_shot")
    return {
        "accuracy": {**{name: offline[name]["accuracy"] for name in rivals}, "adapted": accuracy},
        "log_loss": {**{name: offline[name]["log_loss"] for name in rivals}, "adapted": log_loss},
        "n_test": len(rows),
    }


def score_of(result: dict[str, Any], label: str) -> float:
    """The probability that a classification gives to a label."""
    return next(score["score"] for score in result["scores"] if score["label"] == label)


def show_examples(rows: Sequence[dict[str, str]], results: Sequence[dict[str, Any]]) -> None:
    """A few texts with their true and predicted labels."""
    table = Table("text", "true label", "predicted", "probability")
    for row, result in list(zip(rows, results, strict=True))[:SHOWN]:
        right = result["label"] == row["label"]
        predicted = result["label"] if right else f"[red]{result['label']}[/]"
        table.add_row(row["text"], row["label"], predicted, f"{result['score']:.2f}")
    Console().print(table)


def show_report(report: dict[str, Any]) -> None:
    """Accuracy and log-loss of the three ways, on the same texts."""
    table = Table("", "accuracy", "log-loss", title=f"{report['n_test']} held-out questions")
    names = {
        "zero_shot": "without adaptation",
        "few_shot": f"{SHOTS}-shot prompt",
        "adapted": "adapted, over HTTP",
    }
    for key, name in names.items():
        accuracy, log_loss = report["accuracy"][key], report["log_loss"][key]
        table.add_row(name, f"{accuracy:.1%}", f"{log_loss:.3f}")
    Console().print(table)
    console.print(
        f"The same numbers: {REPORT}; calibration report: {TASKS / TASK}/report/report.md"
    )


def show_next_steps(port: int = 8000) -> None:
    """How to keep serving, and a request to try."""
    body = json.dumps({"task": TASK, "input": "My new card has still not arrived"})
    curl = f"curl http://127.0.0.1:{port}/v1/classify -H 'Content-Type: application/json'"
    console.print(f"\nKeep serving with [bold]make serve[/], then\n  {curl} -d '{body}'")


def serve_until_stopped(port: int) -> int:
    """Serve the demo's tasks in the foreground until interrupted."""
    show_next_steps(port)
    try:
        return subprocess.run(serve_command(port), env=environment()).returncode
    except KeyboardInterrupt:
        return 0


def environment() -> dict[str, str]:
    """One gibibyte of KV cache is plenty for this model; vLLM's CPU default is a share of RAM."""
    return {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}


def executable() -> str:
    """The `ifedicl` beside this Python, whether or not the environment is activated."""
    return str(Path(sys.executable).parent / "ifedicl")


def shell(*words: object) -> str:
    return shlex.join(map(str, words))


def count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def step(number: str, text: str) -> None:
    console.print(f"\n[bold]{number}[/] {text}")


if __name__ == "__main__":
    raise SystemExit(main())
