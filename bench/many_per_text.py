"""Many tasks on one text: how often the text is computed, and what that takes.

Ours, whose tasks adapt the tail of a prompt alone, so that they share the text's KV (`tail`); tasks
that adapt nothing and are readouts of one engine request (`head`); and tasks that adapt all tokens
(`all`), which share nothing. Beside them plain vLLM with as many prompts that differ in their tails
(`plain`: its own prefix cache, the most that sharing can give), and multi-LoRA with as many
adapters (`lora`: up to LORA_TOKENS of a text, as it takes seven times as long). Prompts end in a
tail of 8 tokens, texts end in all parts of a block of 32 alike, and a batch has as many texts as
fill the machine. Every round measures each of them once, in turn, on fresh random texts; ratios are
medians over rounds of same-round ratios. Beside that, one task in blocks of 128 tokens, vLLM's own
choice on a CPU.

Then over HTTP: the latency of one message through 1 and through 16 tasks, one after the other.

    python -m bench.many_per_text [--quick] [--json FILE]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.common.engines import (
    FULL_LABEL_TOKENS,
    LABEL_TOKENS,
    SHAPE,
    Classify,
    Engines,
    Prompts,
    random_model,
    random_workload,
)
from bench.common.random_tasks import random_task
from bench.common.report import options, report
from bench.serving import texts
from bench.throughput import SETTLE_SECONDS
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.plugin.request import AskedReadout, TaskKey, TaskRequest
from tests.processes import ifedicl_serve

TAIL, BLOCK = 8, 32
AIM = 16, 512  # tasks and tokens that the aims are of
BATCH_TOKENS, LORA_TOKENS = 4096, 10_000
HTTP_TASKS = 16
TAILS = np.random.default_rng(1).integers(100, 5000, (64, TAIL)).tolist()


@dataclass(frozen=True)
class Size:
    """How much is run."""

    lengths: tuple[int, ...] = (64, 256, 512, 1024)
    tasks: tuple[int, ...] = (1, 4, 16, 64)
    rounds: int = 3
    rivals: bool = True  # LoRA, and blocks of 128
    messages: int = 200
    eager: bool = False  # engines that are not compiled start in a third of the time


QUICK = Size(lengths=AIM[1:], tasks=(1, AIM[0]), rounds=2, rivals=False, messages=20, eager=True)


@dataclass(frozen=True)
class Variant:
    """A way to ask so many tasks about texts; whether a text is computed once for all of them, and
    whether they have one prompt."""

    classify: Mapping[int, Classify]
    shares: bool = False
    one_prompt: bool = False

    def computed(self, tasks: int, length: int) -> int:
        """Tokens of a text, roughly."""
        return length + (tasks - 1) * (BLOCK if self.shares else length) * (not self.one_prompt)

    def prompts(self, texts: Sequence[list[int]], tasks: int) -> Prompts:
        """Text by text, so that a text's requests meet in one step."""
        tails = TAILS[: 1 if self.one_prompt else tasks]
        return [{"prompt_token_ids": text + tail} for text in texts for tail in tails]


@dataclass(frozen=True)
class Measured:
    """Of a text: seconds, and tokens that were computed."""

    seconds: float
    tokens: float


Cells = dict[str, dict[str, list[Measured]]]  # by variant and number of tasks, a value a round


def variants(engines: Engines, wide: Engines, size: Size) -> dict[str, Variant]:
    """Those on one engine stand together; `wide` has larger blocks."""
    readout = (AskedReadout(LABEL_TOKENS),)
    keys = [TaskKey(digest) for digest in engines.workload.digests]
    rows = [TaskKey(digest) for digest in engines.workload.full]
    of_rows = tuple(AskedReadout(FULL_LABEL_TOKENS, len(FULL_LABEL_TOKENS), key) for key in rows)

    def by_count(asked: Callable[[int], list[TaskRequest]]) -> dict[int, Classify]:
        return {count: engines.dealt(asked(count)) for count in size.tasks}

    plain = dict.fromkeys(size.tasks, engines.plain())
    found = {
        "tail": Variant(
            by_count(lambda n: [TaskRequest(key, readout, tail=TAIL) for key in keys[:n]]), True
        ),
        "head": Variant(
            by_count(lambda n: [TaskRequest(readouts=of_rows[:n])]), True, one_prompt=True
        ),
        "all": Variant(by_count(lambda n: [TaskRequest(key, readout) for key in keys[:n]])),
        "plain": Variant(plain, shares=True),
    }
    if not size.rivals:
        return found
    found["lora"] = Variant(engines.multi_lora(size.tasks))
    found["all, blocks of 128"] = Variant(wide.ours([1]))
    return found


def measure(named: Mapping[str, Variant], size: Size) -> dict[str, Cells]:
    """By length of a prompt."""
    generator = np.random.default_rng(0)
    measured: dict[str, Cells] = {}
    for length in size.lengths:
        cells: Cells = {name: {} for name in named}
        for number in track(range(size.rounds + 1), f"prompts of {length} tokens"):
            for name, variant in named.items():
                time.sleep(SETTLE_SECONDS)
                for tasks, classify in variant.classify.items():
                    computed = variant.computed(tasks, length)
                    if name == "lora" and computed > LORA_TOKENS:
                        continue
                    most = BATCH_TOKENS // 4 if name == "lora" else BATCH_TOKENS
                    drawn = _texts(generator, max(1, most // computed), length)
                    seen = _measured(classify, variant.prompts(drawn, tasks), len(drawn))
                    if number:  # the first round warms
                        cells[name].setdefault(str(tasks), []).append(seen)
        measured[str(length)] = cells
    return measured


def _texts(generator: np.random.Generator, count: int, length: int) -> list[list[int]]:
    """Of so many tokens with a tail, on average: they end in all parts of a block alike."""
    offsets = ((np.arange(count) + 0.5) / count - 0.5) * BLOCK
    lengths = length - TAIL + np.floor(offsets).astype(int)
    return [generator.integers(100, 5000, tokens).tolist() for tokens in lengths]


def _measured(classify: Classify, prompts: Prompts, texts: int) -> Measured:
    start = time.perf_counter()
    answers = classify(prompts)
    seconds = time.perf_counter() - start
    cached = sum(answer.num_cached_tokens or 0 for answer in answers)
    tokens = sum(len(prompt["prompt_token_ids"]) for prompt in prompts)
    return Measured(seconds / texts, (tokens - cached) / texts)


def serve_tasks(model: Path, folder: Path) -> None:
    """Tasks of one head: that adapt their own tails, and that adapt nothing behind one tail."""
    for number in range(HTTP_TASKS):
        own = PromptTemplate.of(f"Text: {{text}}\nTopic {number} of it:")
        rung: dict[str, Any] = {"extent": "tail", "prompt": own}
        random_task(model, folder / f"tail{number}", number, **rung)
        random_task(model, folder / f"head{number}", number, fit="none", readout="head")


def latencies(url: str, model: Path, messages: int) -> dict[str, list[float]]:
    """Milliseconds of a message through 1 and through 16 tasks, in turn, each message a new one."""
    asked: dict[str, dict[str, Any]] = {"tail 1": {"task": "tail0"}, "head 1": {"task": "head0"}}
    for kind in ("tail", "head"):
        asked[f"{kind} {HTTP_TASKS}"] = {"tasks": [f"{kind}{n}" for n in range(HTTP_TASKS)]}
    taken: dict[str, list[float]] = {name: [] for name in asked}
    warm_up = 5
    fresh = iter(texts(model, len(asked) * (warm_up + messages), AIM[1]))
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in track(range(-warm_up, messages), "messages over HTTP"):
            for name, body in asked.items():
                start = time.perf_counter()
                answer = client.post("/v1/classify", json=body | {"input": next(fresh)})
                seconds = time.perf_counter() - start
                answer.raise_for_status()
                if number >= 0:
                    taken[name].append(round(1000 * seconds, 2))
    return taken


def times(cells: Cells, one: tuple[str, int], other: tuple[str, int]) -> float | None:
    """How many times as long a text takes in one way as in another: median of same-round ratios;
    None if one of them was left out."""
    mine, theirs = (cells.get(name, {}).get(str(tasks), []) for name, tasks in (one, other))
    ratios = [a.seconds / b.seconds for a, b in zip(mine, theirs, strict=False)]
    return round(median(ratios), 3) if ratios else None


def headline(measured: Mapping[str, Cells], taken: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The figures that aims are set for, and what blocks of 32 cost a single task."""
    tasks, length = AIM
    cells = measured[str(length)]
    told = {
        f"time of {tasks} tasks over one": times(cells, ("tail", tasks), ("tail", 1)),
        f"time of {tasks} heads over one": times(cells, ("head", tasks), ("head", 1)),
        "speed over separate": times(cells, ("all", tasks), ("tail", tasks)),
        "speed over multi-LoRA": times(cells, ("lora", tasks), ("tail", tasks)),
        "speed over the limit": times(cells, ("plain", tasks), ("tail", tasks)),
        "speed of one task over plain vLLM": times(cells, ("plain", 1), ("all", 1)),
    }
    for of, found in measured.items():
        speed = times(found, ("all, blocks of 128", 1), ("all", 1))
        told[f"speed of blocks of 32 over 128, {of} tokens"] = speed
    for name, values in taken.items():
        told |= {f"{name} p{p}, ms": round(float(np.percentile(values, p)), 1) for p in (50, 99)}
    return {name: value for name, value in told.items() if value is not None}


def show(measured: Mapping[str, Cells]) -> None:
    """Median milliseconds a text, and tokens computed of it."""
    for length, cells in measured.items():
        counts = list(next(iter(cells.values())))
        table = Table("ms a text (tokens computed)", *counts, title=f"{length} tokens, by tasks")
        for name, of in cells.items():
            table.add_row(name, *(_cell(of.get(count, [])) for count in counts))
        Console(width=120).print(table)


def _cell(rounds: Sequence[Measured]) -> str:
    if not rounds:
        return ""
    milliseconds = 1000 * median(one.seconds for one in rounds)
    return f"{milliseconds:,.1f} ({median(one.tokens for one in rounds):,.0f})"


def main() -> None:
    """Command line."""
    args = options(
        __doc__, quick="one length, few variants, not compiled, under 3 minutes"
    ).parse_args()
    size = QUICK if args.quick else Size()
    most = max(size.tasks)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = random_model(scratch / "model")
        workload = random_workload(model, scratch, most, most if size.rivals else 0, full=most)
        engines = Engines(workload, 256, block_size=BLOCK, enforce_eager=size.eager)
        wide = Engines(workload, 256)
        measured = measure(variants(engines, wide, size), size)
        for one in (engines, wide):
            one.shut_down()
        serve_tasks(model, scratch / "served")
        flags = ["--dtype", "bfloat16", "--max-model-len", "2048", "--block-size", str(BLOCK)]
        flags += ["--enforce-eager"] if size.eager else []
        with ifedicl_serve(model, scratch / "served", scratch / "server.log", *flags) as url:
            taken = latencies(url, model, size.messages)
    show(measured)
    record = {
        "headline": headline(measured, taken),
        "setting": {"model": SHAPE, "tail": TAIL, "block_size": BLOCK, "rounds": size.rounds},
        "seconds and tokens": {
            length: {
                name: {
                    count: [[one.seconds, one.tokens] for one in rounds]
                    for count, rounds in of.items()
                }
                for name, of in cells.items()
            }
            for length, cells in measured.items()
        },
        "latency_ms": taken,
    }
    report(args.json, record)


if __name__ == "__main__":
    main()
