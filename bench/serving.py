"""Classification over HTTP on a socket, as a fraction of the engine alone.

`ifedicl serve` and an offline engine on the same checkpoint, both compiled and alive together;
each round measures the offline engine (batches of 256) and the server in turn. Closed loops of
1, 8 and 64 connections with single texts, and of 1, 8 and 16 with batches of 32; then open loops
at 50 % and 80 % of what 64 connections got. Load by autocannon and locust, texts of 64 tokens,
64 tasks.

    python -m bench.serving [--model PATH] [--quick] [--json FILE]
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoTokenizer

from bench.common.engines import SHAPE, Classify, Engines, random_model, random_workload
from bench.common.load import AUTOCANNON, LOCUST, Seen, arrive, fire, require, write_har
from bench.common.report import options, report
from tests.processes import ifedicl_serve

BATCH, TASKS, TOKENS = 256, 64, 64
CONNECTIONS = {1: (1, 8, 64), 32: (1, 8, 16)}  # by texts in a request
LOADS = (0.5, 0.8)
DRAIN_SECONDS = 5.0  # what was under way when the load generator stopped
REQUESTS = 2048  # distinct, then again


def texts(model: Path, count: int, tokens: int = TOKENS) -> list[str]:
    """Random words that make prompts of about so many tokens."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    words = [word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 3]
    drawn = np.random.default_rng(0).choice(sorted(words), (count, tokens - 4))
    return [" ".join(row) for row in drawn]


def bodies(model: Path, per_request: int) -> list[dict[str, Any]]:
    """Requests, dealt to the tasks in turn."""
    drawn = texts(model, REQUESTS)
    return [
        {"task": f"task{start // per_request % TASKS}", "input": drawn[start : start + per_request]}
        for start in range(0, REQUESTS, per_request)
    ]


def offline(classify: Classify) -> float:
    """Texts per second of the engine alone."""
    prompts = np.random.default_rng().integers(100, 5000, (BATCH, TOKENS)).tolist()
    time.sleep(DRAIN_SECONDS)
    start = time.perf_counter()
    classify([{"prompt_token_ids": prompt} for prompt in prompts])
    return BATCH / (time.perf_counter() - start)


def measure(
    url: str, classify: Classify, model: Path, scratch: Path, rounds: int, seconds: int
) -> dict[str, Any]:
    """Texts per second offline, and what the load generator saw, by variant, one per round."""
    hars = {size: scratch / f"{size}.har" for size in CONNECTIONS}
    for size, har in hars.items():
        write_har(har, url, bodies(model, size))
    alone: list[float] = []
    closed: dict[str, list[Seen]] = {}
    for number in track(range(rounds + 1), "closed loops"):
        speeds = [offline(classify)]
        for size, levels in CONNECTIONS.items():
            for connections in levels:
                seen = fire(url, hars[size], connections, seconds)
                speeds.append(offline(classify))
                if number:  # the first round warms
                    closed.setdefault(f"{size} x {connections}", []).append(seen)
                    alone.append(median(speeds[-2:]))
    capacity = median(seen.requests_per_second for seen in closed[f"1 x {CONNECTIONS[1][-1]}"])
    opened = {
        f"{load:.0%}": arrive(url, hars[1], load * capacity, 4 * seconds, scratch)
        for load in track(LOADS, "open loops")
    }
    return {"offline": alone, "closed": closed, "open": opened}


def fractions(measured: dict[str, Any]) -> dict[str, float]:
    """Texts per second over those of the offline engine measured around it, medians."""
    names = list(measured["closed"])
    return {
        name: round(
            median(
                _size(name) * seen.requests_per_second / alone
                for seen, alone in zip(
                    measured["closed"][name], measured["offline"][index :: len(names)], strict=True
                )
            ),
            3,
        )
        for index, name in enumerate(names)
    }


def _size(name: str) -> int:
    return int(name.split(" ")[0])


def show(measured: dict[str, Any], shares: dict[str, float]) -> None:
    """Both tables."""
    table = Table(
        "texts x connections", "texts/s", "of offline", "p50 ms", "p90 ms", "p99 ms", "failures"
    )
    for name, runs in measured["closed"].items():
        speed = median(_size(name) * run.requests_per_second for run in runs)
        table.add_row(name, f"{speed:.0f}", f"{shares[name]:.2f}", *_latencies(runs))
    for name, seen in measured["open"].items():
        table.add_row(f"open, {name}", f"{seen.requests_per_second:.0f}", "", *_latencies([seen]))
    Console(width=120).print(table)


def _latencies(runs: list[Seen]) -> list[str]:
    cells = [
        f"{median(run.latency_ms[name] for run in runs):.0f}" for name in ("p50", "p90", "p99")
    ]
    return [*cells, str(sum(run.failures for run in runs))]


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="under 5 minutes")
    parser.add_argument("--model", type=Path, help="LLaMA checkpoint; random weights if absent")
    args = parser.parse_args()
    require(AUTOCANNON, LOCUST)
    rounds, seconds = (1, 4) if args.quick else (2, 10)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = args.model or random_model(scratch / "model")
        workload = random_workload(model, scratch, TASKS)
        classify = Engines(workload, BATCH).ours([TASKS])[TASKS]
        flags = (
            "--dtype",
            "bfloat16",
            "--max-num-seqs",
            str(BATCH),
            "--disable-uvicorn-access-log",
        )
        with ifedicl_serve(model, workload.tasks_dir, scratch / "server.log", *flags) as url:
            measured = measure(url, classify, model, scratch, rounds, seconds)
    shares = fractions(measured)
    show(measured, shares)
    record = {
        "headline": {f"of offline, {name}": share for name, share in shares.items()},
        "setting": {
            "model": args.model.name if args.model else SHAPE,
            "tokens": TOKENS,
            "tasks": TASKS,
        },
        "offline_texts_per_second": [round(speed, 1) for speed in measured["offline"]],
        "closed": {k: [run.record() for run in runs] for k, runs in measured["closed"].items()},
        "open": {name: seen.record() for name, seen in measured["open"].items()},
    }
    report(args.json, record)


if __name__ == "__main__":
    main()
