"""Everything at once for twenty minutes: does the server lose, mix up or leak anything?

One server with four times as many tasks in use as slots; callers good and bad
(bench/common/callers.py) at once, and every second a task is added, replaced or removed. Every
answer is checked; every five seconds memory, files and threads of the server's processes are read.

    python -m bench.soak [--minutes 20] [--model PATH] [--json FILE]
"""

import asyncio
import re
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import httpx
import psutil
from rich.progress import Progress

from bench.churn import churning
from bench.common.callers import MIX, Callers, looks_around
from bench.common.random_tasks import random_task
from bench.common.report import options, report
from tests.processes import served

BASE_MODEL = Path(__file__).parents[1] / "examples" / "base_model"
SLOTS, IN_USE, CALLERS = 16, 64, 24
SAMPLE_S = 5.0
TEXTS = [
    f"question {number}: why was my {noun} {verb}?"
    for number, (noun, verb) in enumerate(
        (noun, verb)
        for noun in ("card", "transfer", "cash withdrawal", "exchange", "refund", "top-up")
        for verb in ("declined", "late", "charged twice", "not accepted", "cancelled")
    )
]
FLAGS = ("--max-num-seqs", str(SLOTS), "--max-queued-requests", "1000000")


async def call_until(
    end: float, callers: Callers, seed: int, sent: Counter, wrong: Counter
) -> None:
    """One caller after another of the mix; counts what was sent and what was wrong."""
    random = Random(seed)
    while time.monotonic() < end:
        (caller,) = random.choices(list(MIX), weights=list(MIX.values()))
        sent[caller.__name__] += 1
        try:
            complaint = await caller(callers, random)
        except (TimeoutError, httpx.HTTPError, OSError) as error:
            complaint = f"{caller.__name__}: {type(error).__name__} {error}"
        if complaint:
            wrong[complaint] += 1


async def sample_until(
    end: float, process: psutil.Process, samples: list[dict[str, Any]], sent: Counter
) -> None:
    """Append what the server's processes hold, every few seconds."""
    start = time.monotonic()
    with Progress() as progress:
        soaking = progress.add_task("soaking", total=end - start)
        while time.monotonic() < end:
            samples.append({"seconds": round(time.monotonic() - start, 1), **held(process)})
            progress.update(
                soaking,
                completed=time.monotonic() - start,
                description=f"{sent.total()} requests, {samples[-1]['rss_mib']:.0f} MiB",
            )
            await asyncio.sleep(SAMPLE_S)


def held(process: psutil.Process) -> dict[str, float]:
    """Resident memory, open files and threads of a process and its children."""
    family = [process, *process.children(recursive=True)]
    return {
        "rss_mib": sum(one.memory_info().rss for one in family) / 2**20,
        "files": sum(one.num_fds() for one in family),
        "threads": sum(one.num_threads() for one in family),
    }


def metrics(url: str) -> dict[str, float]:
    """The server's counters and gauges, summed over their labels."""
    totals: dict[str, float] = defaultdict(float)
    for name, value in re.findall(
        r"^((?:ifedicl|vllm):\w+)(?:{.*})? (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE
    ):
        totals[name] += float(value)
    return totals


async def soak(
    url: str, process: psutil.Process, minutes: float
) -> tuple[Counter, Counter, list[dict[str, Any]]]:
    """What was sent, what was wrong with answers, and the samples."""
    sent: Counter = Counter()
    wrong: Counter = Counter()
    samples: list[dict[str, Any]] = []
    end = time.monotonic() + 60 * minutes
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits) as http:
        callers = Callers(http, [f"task{number}" for number in range(IN_USE)], TEXTS)
        await asyncio.gather(
            sample_until(end, process, samples, sent),
            *(call_until(end, callers, seed, sent, wrong) for seed in range(CALLERS)),
        )
    return sent, wrong, samples


def growth(samples: list[dict[str, Any]], what: str) -> float:
    """Median of the last quarter less that of the second: after caches have filled."""
    values = [sample[what] for sample in samples]
    quarter = max(1, len(values) // 4)
    return median(values[-quarter:]) - median(values[quarter : 2 * quarter] or values)


def run(model: Path, minutes: float) -> dict[str, Any]:
    """Soak a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        scratch, tasks = Path(folder), Path(folder) / "tasks"
        make_tasks(model, tasks)
        with served(model, tasks, scratch / "server.log", *FLAGS) as (url, popen):
            return soaked(model, tasks, url, psutil.Process(popen.pid), minutes)


def make_tasks(model: Path, tasks: Path) -> None:
    """Those in use."""
    for number in range(IN_USE):
        random_task(model, tasks / f"task{number}", number)


def soaked(
    model: Path, tasks: Path, url: str, process: psutil.Process, minutes: float
) -> dict[str, Any]:
    """Soak a server that nobody has asked anything yet; headline, what was sent and wrong, and the
    samples."""
    with churning(model, tasks) as changes:
        sent, wrong, samples = asyncio.run(soak(url, process, minutes))
    time.sleep(SAMPLE_S)
    after, idle = metrics(url), held(process)
    to_classify = sent.total() - sent[looks_around.__name__]
    in_engine = after["vllm:num_requests_running"] + after["vllm:num_requests_waiting"]
    headline = {
        "minutes": minutes,
        "requests": sent.total(),
        "wrong or missing answers": wrong.total(),
        "changes of tasks": len(changes),
        "requests that the server did not count": int(to_classify - after["ifedicl:request_total"]),
        "texts left in flight": int(after["ifedicl:requests_in_flight"]),
        "requests left in the engine": int(in_engine),
        "tasks in slots": int(after["ifedicl:resident_tasks"]),
        "slots": SLOTS,
        "MiB grown": round(growth(samples, "rss_mib"), 1),
        "files grown": round(growth(samples, "files")),
        "threads grown": round(growth(samples, "threads")),
    }
    return {
        "headline": headline,
        "sent": dict(sent),
        "wrong": dict(wrong.most_common(20)),
        "setting": {"model": model.name, "tasks_in_use": IN_USE, "callers": CALLERS},
        "samples": samples,
        "idle after": idle,
    }


def main() -> None:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--model", type=Path, default=BASE_MODEL, help="LLaMA or Qwen checkpoint")
    args = parser.parse_args()
    record = run(args.model, args.minutes)
    for complaint, times in record["wrong"].items():
        print(f"{times} times: {complaint}")
    report(args.json, record)


if __name__ == "__main__":
    main()
