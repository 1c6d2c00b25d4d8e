"""Start-up time and memory of `ifedicl serve` by number of artifacts in its folder.

Each round starts a server with few and with many artifacts in turn (one API process, eager, so
that nothing is compiled), waits for /health, and asks one question. Memory is the resident set of
all its processes, after that answer.

    python -m bench.startup [--model PATH] [--quick] [--json FILE]
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from bench.common.report import options, report
from bench.many_tasks import EMBEDDED_MODEL, write_tasks
from tests.processes import ifedicl_serve

COUNTS = (10, 1_000, 10_000)

Started = dict[str, float]


def start(model: Path, tasks: Path, log: Path) -> Started:
    """Seconds until healthy and for the first answer, and MiB then."""
    before = {process.pid for process in psutil.process_iter()}
    began = time.perf_counter()
    with ifedicl_serve(model, tasks, log, "--enforce-eager") as url:
        healthy = time.perf_counter()
        body = {"task": "task00000", "input": "my card has not arrived"}
        httpx.post(f"{url}/v1/classify", json=body, timeout=60).raise_for_status()
        answered = time.perf_counter()
        ours = [psutil.Process(), *psutil.Process().children(recursive=True)][1:]
        memory = sum(process.memory_info().rss for process in ours if process.pid not in before)
    return {
        "healthy_s": round(healthy - began, 2),
        "first_answer_s": round(answered - healthy, 3),
        "resident_mib": round(memory / 2**20),
    }


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="under 5 minutes")
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    args = parser.parse_args()
    counts = COUNTS[::2] if args.quick else COUNTS
    runs: dict[int, list[Started]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            write_tasks(args.model, Path(folder) / str(count), count)
        for _ in track(range(1 if args.quick else 5), "rounds"):
            for count in counts:
                tasks, log = Path(folder) / str(count), Path(folder) / "server.log"
                runs[count].append(start(args.model, tasks, log))
    medians = {
        count: {name: median(run[name] for run in started) for name in started[0]}
        for count, started in runs.items()
    }
    table = Table("artifacts", *medians[counts[0]])
    for count, figures in medians.items():
        table.add_row(f"{count:,}", *map(str, figures.values()))
    Console(width=120).print(table)
    few, many = medians[counts[0]], medians[counts[-1]]
    claims = {
        "seconds more to start": round(many["healthy_s"] - few["healthy_s"], 2),
        "MiB more": round(many["resident_mib"] - few["resident_mib"]),
    }
    setting = {"model": args.model.name, "artifacts": counts}
    report(args.json, {"headline": claims, "setting": setting, "runs": runs})


if __name__ == "__main__":
    main()
