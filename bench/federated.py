"""The paper's table on real data: federated calibration and its rivals.

On subj, emotion and ag_news, five clients share a pool of examples, IID or skewed (Dirichlet
0.5). Zero-shot, contextual calibration and a few-shot prompt see the pool; local-only is each
client alone, centralised one client with the whole pool and all clients' steps; federated LoRA
has the same clients, rounds, steps and loss. Ablations change one thing of ours each, on the
first seed. The test rows are fixed; a seed draws the pool, the split, the demonstrations and the
batches.

    python -m bench.federated --data DIR --model PATH [--quick] [--resume] --json FILE

Every measurement is saved as it is made: a killed run goes on with --resume. What stands after
"## Findings" in the Markdown file beside FILE is kept.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.common.data_sets import DataSet, load_data_set
from bench.common.report import machine, options, show_headline
from bench.common.store import Store
from bench.federation.lora import Lora, add_adapters, run_lora
from bench.federation.plan import (
    ALPHA,
    BASELINES,
    CENTRALISED,
    CONTRARY,
    EVERY_ROUND,
    FULL,
    LEARNING_RATES,
    LOCAL,
    QUICK,
    SHOTS,
    TUNING_SEED,
    VARIANTS,
    Cell,
    Size,
    plan,
)
from bench.federation.report import headline, write_report
from bench.federation.rounds import MeteredModel, Variant, run_federated
from calibration.command.parse import parse_layers
from calibration.data.examples import Example
from calibration.data.partition import contradictory, dirichlet, iid, one_label
from calibration.model.load import open_model
from calibration.result.record import versions
from calibration.settings import Machine, Settings
from calibration.stages.evaluate import Evaluation, Metrics


@dataclass(frozen=True)
class Bench:
    """Where everything is, and how much is run."""

    model: str
    dtype: str
    data: Path
    size: Size

    def settings(self, seed: int, changes: dict[str, Any]) -> Settings:
        """Ours but for `changes`; another number of rounds alone keeps the steps in all."""
        size, layers = self.size, metered(self.model, self.dtype).num_layers
        rounds = changes.get("rounds", size.rounds)
        return Settings(
            **{
                "rounds": rounds,
                "local_steps": size.local_steps * size.rounds // rounds,
                "batch_size": size.batch_size,
                "learning_rate": LEARNING_RATES["ours"],
                "fit": "coefficients",
                "readout": "none",
                "seed": seed,
                **changes,
                "layers": parse_layers(changes.get("layers", "all"), layers),
            }
        )


@cache
def metered(name: str, dtype: str) -> MeteredModel:
    """The base model, once in a process."""
    model = open_model(name, Machine(dtype))
    return MeteredModel(model.network, model.tokenizer)


@cache
def data_set(folder: Path, name: str, test: int) -> DataSet:
    """A data set with its fixed test rows, once in a process."""
    return load_data_set(folder, name, test)


def measure(bench: Bench, cell: Cell) -> dict[str, Any]:
    """One measurement: metrics by round and what a client had spent by then."""
    size = bench.size
    data = data_set(bench.data, cell.data, size.test)
    pool_size = size.clients * size.examples
    drawn = random.Random(cell.seed).sample(list(data.train), pool_size + size.test)
    pool, unseen = drawn[:pool_size], drawn[pool_size:]
    rows = unseen if cell.seed == TUNING_SEED else data.test
    model = metered(bench.model, bench.dtype)
    evaluation = Evaluation(model, data.task, rows)
    if cell.method in BASELINES:
        return {"metrics": [baseline(evaluation, pool, cell)], "spent": [{}]}
    if cell.method in CENTRALISED:
        settings = bench.settings(cell.seed, CENTRALISED[cell.method].settings)
        settings = replace(settings, local_steps=size.local_steps * size.clients)
        return run_federated(model, evaluation, [pool], settings, Variant()).record()
    parts = split(cell, pool, size.clients)
    if cell.method == LOCAL:
        settings = bench.settings(cell.seed, {})
        return local(
            [run_federated(model, evaluation, [p], settings, Variant()).record() for p in parts]
        )
    variant = VARIANTS[cell.method]
    if isinstance(variant, Lora):
        return measure_lora(bench, cell, evaluation, parts, variant)
    if variant.poison == "labels":
        parts = contradictory(parts, 1, cell.seed)
    settings = bench.settings(cell.seed, variant.settings)
    every_round = cell.method in EVERY_ROUND
    return run_federated(model, evaluation, parts, settings, variant, every_round).record()


def measure_lora(
    bench: Bench,
    cell: Cell,
    evaluation: Evaluation,
    parts: Sequence[Sequence[Example]],
    lora: Lora,
) -> dict[str, Any]:
    """The rival, on a model of its own."""
    rounds = {"rounds": lora.rounds} if lora.rounds else {}
    settings = bench.settings(cell.seed, {**rounds, "learning_rate": lora.learning_rate})
    fresh = open_model(bench.model, Machine(bench.dtype))
    adapted, parameters = add_adapters(fresh, lora, cell.seed)
    evaluation.model = adapted
    every_round = cell.method in EVERY_ROUND
    return run_lora(adapted, parameters, evaluation, parts, settings, every_round).record()


def baseline(evaluation: Evaluation, pool: Sequence[Example], cell: Cell) -> Metrics:
    """A way that fits nothing."""
    if cell.method.startswith("few_shot"):
        return evaluation.metrics(evaluation.few_shot(pool, SHOTS, cell.seed))
    scores = evaluation.zero_shot()
    if cell.method == "mean_removed":
        scores = evaluation.mean_removed(scores, [example.text for example in pool])
    return evaluation.metrics(scores)


def split(cell: Cell, pool: Sequence[Example], clients: int) -> list[list[Example]]:
    """The pool among the clients."""
    even = iid(pool, clients, cell.seed)
    return {
        "iid": lambda: even,
        "dirichlet": lambda: dirichlet(pool, clients, ALPHA, cell.seed),
        "one_label": lambda: one_label(pool, clients, cell.seed),
        "contradictory": lambda: contradictory(even, CONTRARY, cell.seed),
    }[cell.split]()


def local(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean client's own artifact; nothing is sent."""

    def mean(key: str) -> list[dict[str, float]]:
        return [
            {name: round(sum(row[name] for row in rows) / len(rows), 6) for name in rows[0]}
            for rows in zip(*(record[key] for record in records), strict=True)
        ]

    spent = [row | {"bytes": 0} for row in mean("spent")]
    clients = [record["metrics"][-1]["accuracy"] for record in records]
    return {"metrics": mean("metrics"), "spent": spent, "clients": clients}


def quiet() -> None:
    """Flower logs a line for every robust aggregation, at a level it sets when imported."""
    importlib.import_module("flwr.common")
    logging.getLogger("flwr").setLevel(logging.WARNING)


def run(bench: Bench, cells: Sequence[Cell], jobs: int, store: Store) -> None:
    """Measure what is missing, `jobs` at a time."""
    missing = [cell for cell in cells if cell.key not in store.results]
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=quiet) as pool:
        running = [(cell, pool.submit(measure, bench, cell)) for cell in missing]
        for cell, result in running:
            store.add(cell.key, result.result())
            final = store.results[cell.key]["metrics"][-1]
            print(f"{cell.key}: {final['accuracy']:.3f} ({final['log_loss']:.3f})", flush=True)


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="under 4 minutes on 2 cores")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--seeds", type=int, help="default 3, with --quick 1")
    parser.add_argument("--resume", action="store_true", help="keep what --json already holds")
    parser.add_argument("--only", default="", help="measure only keys containing this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--dtype", default="fp32", help="fp32 or bf16")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    seeds = args.seeds or size.seeds
    bench = Bench(args.model, args.dtype, args.data, size)
    settings = {
        "model": Path(args.model).name,
        "dtype": args.dtype,
        "size": asdict(size),
        "learning_rates": LEARNING_RATES,
    }
    store = Store(args.json, settings, args.resume)
    run(
        bench,
        [cell for cell in plan(seeds, size.ablations) if args.only in cell.key],
        args.jobs,
        store,
    )
    if args.only:
        return
    numbers = headline(store.results, seeds)
    workload = (
        f"Model {Path(args.model).name}, {args.dtype}, {seeds} seeds, {size.clients} clients, "
        f"{size.examples} examples a client, {size.test} test rows, {size.rounds} rounds of "
        f"{size.local_steps} steps of {size.batch_size}, {machine()}."
    )
    store.write({"headline": numbers, "workload": workload, "versions": versions()})
    if args.json:
        write_report(store.results, seeds, workload, args.json)
    show_headline(numbers)


if __name__ == "__main__":
    main()
