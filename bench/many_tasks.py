"""What thousands of artifacts cost: at start-up, when one appears, and when a slot is missed.

No engine runs: this times the registry (an API process), the index and the slot tables (a
worker) alone, on the CPU. Artifacts have the model's own shapes and equal vectors in files of
their own. Rounds interleave what is compared; figures are medians. Files come from the page
cache, as they do after a restart.

    python -m bench.many_tasks [--model PATH] [--quick] [--json FILE]
"""

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoConfig, AutoTokenizer

from bench.common.random_tasks import random_task
from bench.common.report import options, report
from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.plugin.artifacts import WorkerArtifacts
from ifedicl_serve.plugin.request import Adaptation, TaskKey
from ifedicl_serve.plugin.slots import SlotTables
from ifedicl_serve.tasks.index import ArtifactIndex
from ifedicl_serve.tasks.registry import TaskRegistry

EMBEDDED_MODEL = Path(__file__).parents[1] / "examples" / "base_model"
FEW, MANY, IN_USE = 10, 10_000, 1_000
BATCH = 256  # requests in a step, which is also the default number of slots
RESIDENT = (256, 512, 1_000)
TOKENS = 16  # of each request
ZIPF_EXPONENT = 1.0

Samples = dict[str, list[float]]


def write_tasks(model: Path, folder: Path, count: int) -> None:
    """`count` artifacts that differ in their name; written without syncing each."""
    with tempfile.TemporaryDirectory() as scratch:
        random_task(model, Path(scratch) / "task", seed=0)
        spec = json.loads((Path(scratch) / "task" / TASK_FILE).read_text())
        vectors = (Path(scratch) / "task" / VECTORS_FILE).read_bytes()
    for number in range(count):
        task = folder / f"task{number:05}"
        task.mkdir(parents=True)
        (task / TASK_FILE).write_text(json.dumps(spec | {"name": task.name}, indent=2))
        (task / VECTORS_FILE).write_bytes(vectors)


def slot_tables(model: Path, folder: Path, resident: int) -> SlotTables:
    """A worker's tables for a model, as the plugin makes them."""
    config = AutoConfig.from_pretrained(model)
    shape = config.num_hidden_layers, config.hidden_size
    return SlotTables(
        WorkerArtifacts(folder, ModelIdentity.of(str(model)), *shape),
        layers=range(config.num_hidden_layers),
        num_tasks=resident,
        max_tokens=BATCH * TOKENS,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )


def seconds(action: Callable[..., Any], *arguments: Any) -> float:
    """How long it took."""
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def measure_folder(model: Path, few: Path, many: Path, rounds: int) -> Samples:
    """Seconds to start with few and with many artifacts, and to take in one that changes."""
    identity, tokenizer = ModelIdentity.of(str(model)), AutoTokenizer.from_pretrained(model)
    taken: Samples = defaultdict(list)
    registry, index = TaskRegistry(many, identity, tokenizer), ArtifactIndex(many)
    for name in track(registry.tasks, "checks"):  # all, so that none waits for its turn below
        taken["check_one"].append(seconds(registry.get, name))
    changing = next(iter(registry.tasks.values())).folder
    for _ in track(range(rounds), "start-up"):
        for count, folder in ((FEW, few), (MANY, many)):
            start = seconds(TaskRegistry, folder, identity, tokenizer)
            taken[f"registry_start_{count}"].append(start)
            taken[f"index_start_{count}"].append(seconds(ArtifactIndex, folder))
        os.utime(changing / TASK_FILE)
        taken["registry_one_changed"].append(seconds(registry.refresh, {changing.name}))
        taken["registry_whole_folder"].append(seconds(registry.refresh))
        taken["index_one_changed"].append(seconds(index.find, registry.get(changing.name).digest))
    return taken


def measure_slots(model: Path, folder: Path, steps: int) -> dict[int, dict[str, float | None]]:
    """By number of resident tasks: hit rate and milliseconds of a step's slot assignment."""
    identity, tokenizer = ModelIdentity.of(str(model)), AutoTokenizer.from_pretrained(model)
    listed = list(TaskRegistry(folder, identity, tokenizer).tasks.values())
    tasks = [TaskKey(task.digest, task.generation) for task in listed[:IN_USE]]
    popularity = 1 / np.arange(1, IN_USE + 1) ** ZIPF_EXPONENT
    popularity /= popularity.sum()
    generator = np.random.default_rng(0)
    computed, counts = np.zeros(BATCH, dtype=np.int32), np.full(BATCH, TOKENS, dtype=np.int32)
    measured = {}
    for resident in RESIDENT:
        tables = slot_tables(model, folder, resident)
        taken: list[float] = []
        missed: list[int] = []
        wanted: list[int] = []
        for _ in track(range(2 * steps), f"{resident} resident tasks"):
            batch = [tasks[i] for i in generator.choice(IN_USE, BATCH, p=popularity)]
            missed.append(sum(not tables.holds(task) for task in set(batch)))
            wanted.append(len(set(batch)))
            adaptations = [Adaptation(task) for task in batch]
            taken.append(seconds(tables.assign, adaptations, computed, counts))
        hit = seconds(tables.assign, adaptations, computed, counts)
        missed, wanted, taken = missed[steps:], wanted[steps:], taken[steps:]  # 1st half fills
        loads = sum(missed)
        measured[resident] = {
            "hit_rate": round(1 - loads / sum(wanted), 3),
            "step_ms": round(1000 * median(taken), 2),
            "step_ms_all_resident": round(1000 * hit, 2),
            "ms_per_load": round(1000 * (sum(taken) - hit * steps) / loads, 3)
            if loads > steps
            else None,  # too few to tell
            "table_mib": round(tables.nbytes / 2**20, 2),
        }
    return measured


def show(folder: Samples, slots: dict[int, dict[str, float | None]]) -> None:
    """Both tables."""
    console = Console(width=120)
    table = Table("folder", "median seconds", title=f"{FEW} and {MANY} artifacts")
    for name, values in folder.items():
        table.add_row(name, f"{median(values):.4f}")
    console.print(table)
    title = f"batches of {BATCH} over {IN_USE} tasks, Zipf {ZIPF_EXPONENT}"
    table = Table("resident", *next(iter(slots.values())), title=title)
    for resident, figures in slots.items():
        table.add_row(str(resident), *map(str, figures.values()))
    console.print(table)


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="fewer rounds, under 2 minutes")
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    args = parser.parse_args()
    rounds, steps = (3, 20) if args.quick else (9, 100)
    with tempfile.TemporaryDirectory() as scratch:
        few, many = Path(scratch) / "few", Path(scratch) / "many"
        write_tasks(args.model, few, FEW)
        write_tasks(args.model, many, MANY)
        folder = measure_folder(args.model, few, many, rounds)
        slots = measure_slots(args.model, many, steps)
    show(folder, slots)
    headline = {
        **{f"{name}_s": round(median(values), 4) for name, values in folder.items()},
        **{f"hit_rate_{resident}": figures["hit_rate"] for resident, figures in slots.items()},
        "ms_per_load": slots[RESIDENT[0]]["ms_per_load"],
    }
    setting = {"model": args.model.name, "rounds": rounds, "steps": steps}
    record = {"headline": headline, "setting": setting, "seconds": folder, "slots": slots}
    report(args.json, record)


if __name__ == "__main__":
    main()
