"""Serving while tasks come, change and go: four times as many tasks in use as there are slots.

One server, closed-loop load over HTTP on tasks of Zipf popularity, rounds with and without churn
in turn. Churn: every second a task is added, replaced or removed, also such as are in use (those
are only replaced). No request may fail, and throughput is to stay within 10 %.

    python -m bench.churn [--model PATH] [--quick] [--json FILE]
"""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.common.engines import SHAPE, random_model
from bench.common.load import AUTOCANNON, Seen, fire, require, write_har
from bench.common.random_tasks import random_task
from bench.common.report import options, report
from bench.serving import texts
from tests.processes import ifedicl_serve

SLOTS = 32
IN_USE = 4 * SLOTS
CONNECTIONS = 8
REQUESTS = 2048
ZIPF_EXPONENT = 1.0
EVERY_S = 1.0


def bodies(model: Path) -> list[dict[str, Any]]:
    """Single texts, each for a task drawn by its popularity."""
    popularity = 1 / np.arange(1, IN_USE + 1) ** ZIPF_EXPONENT
    drawn = np.random.default_rng(0).choice(IN_USE, REQUESTS, p=popularity / popularity.sum())
    return [
        {"task": f"task{number}", "input": text}
        for number, text in zip(drawn, texts(model, REQUESTS), strict=True)
    ]


@contextmanager
def churning(model: Path, tasks: Path) -> Iterator[list[str]]:
    """Add, replace and remove in turn until the block ends; yields what was done."""
    done: list[str] = []
    stop, seeds = threading.Event(), count(10_000)
    generator = np.random.default_rng(1)

    def churn() -> None:
        while not stop.wait(EVERY_S):
            action = ("add", "replace", "remove")[len(done) % 3]
            if action == "replace":
                random_task(model, tasks / f"task{generator.integers(IN_USE)}", next(seeds))
            elif action == "add":
                random_task(model, tasks / "passing", next(seeds))
            else:
                shutil.rmtree(tasks / "passing")
            done.append(action)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def measure(
    url: str, model: Path, tasks: Path, har: Path, rounds: int, seconds: int
) -> dict[str, Any]:
    """What the load generator saw, still and churning, and how often something changed."""
    still: list[Seen] = []
    churned: list[Seen] = []
    changes = 0
    fire(url, har, CONNECTIONS, seconds)  # warms
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        still.append(fire(url, har, CONNECTIONS, seconds))
        with churning(model, tasks) as done:
            churned.append(fire(url, har, CONNECTIONS, seconds))
        changes += len(done)
    return {"still": still, "churned": churned, "changes": changes}


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="under 5 minutes")
    parser.add_argument("--model", type=Path, help="LLaMA checkpoint; random weights if absent")
    args = parser.parse_args()
    require(AUTOCANNON)
    rounds, seconds = (2, 6) if args.quick else (5, 15)
    with tempfile.TemporaryDirectory() as folder:
        scratch, tasks = Path(folder), Path(folder) / "tasks"
        model = args.model or random_model(scratch / "model")
        for number in range(IN_USE):
            random_task(model, tasks / f"task{number}", number)
        flags = (
            "--dtype",
            "bfloat16",
            "--max-num-seqs",
            str(SLOTS),
            "--disable-uvicorn-access-log",
        )
        with ifedicl_serve(model, tasks, scratch / "server.log", *flags) as url:
            write_har(scratch / "load.har", url, bodies(model))
            measured = measure(url, model, tasks, scratch / "load.har", rounds, seconds)
    pairs = zip(measured["churned"], measured["still"], strict=True)
    runs = measured["churned"] + measured["still"]
    claims = {
        "throughput with churn over without": round(
            median(one.requests_per_second / other.requests_per_second for one, other in pairs), 3
        ),
        "failures": sum(run.failures for run in runs),
        "changes": measured["changes"],
    }
    setting = {
        "model": args.model.name if args.model else SHAPE,
        "slots": SLOTS,
        "tasks_in_use": IN_USE,
        "connections": CONNECTIONS,
        "seconds": seconds,
    }
    kinds = {kind: [run.record() for run in measured[kind]] for kind in ("still", "churned")}
    report(args.json, {"headline": claims, "setting": setting, **kinds})


if __name__ == "__main__":
    main()
