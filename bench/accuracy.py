"""Accuracy of every cheap way to classify with one frozen model, on subj, emotion and ag_news.

Zero-shot; zero-shot with the mean label logit removed (contextual calibration, arXiv
2102.09690: the honest cheap rival); 8- and 16-shot prompts; adapted; and, for the record and
not with --quick, adapted with the paper's loss and with no context vector. All see the same
training rows and are scored by the same code on the same test rows. A seed draws the training
rows, the demonstrations and the fit's batches; the test rows stay.

    python -m bench.accuracy --data DIR --model PATH [--quick] [--resume] --json FILE
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.common.report import machine, options, show_headline
from bench.common.store import Store
from calibration.calibrate import Watch, calibrate
from calibration.data.examples import Example, read_examples
from calibration.model.hooked import HookedModel
from calibration.model.load import open_model
from calibration.model.score import FloatArray
from calibration.result.record import versions
from calibration.run.local import LocalClients
from calibration.run.progress import Progress
from calibration.settings import Settings
from calibration.stages.evaluate import Evaluation, Metrics
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import adapted_mask, fold
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import Label

TEMPLATES = {
    "subj": "Text: {text}\nLabel:",
    "emotion": "Text: {text}\nEmotion:",
    "ag_news": "News: {text}\nTopic:",
}
WORDS = {"Sci/Tech": "technology"}  # other labels are read as their lower-cased names
SHOTS = (8, 16)
METHODS = {
    "zero_shot": "zero-shot",
    "mean_removed": "zero-shot, mean label logit removed",
    "few_shot_8": "8-shot prompt",
    "few_shot_16": "16-shot prompt",
    "adapted": "adapted",
    "adapted_vocabulary": "adapted, loss over the vocabulary",
    "beta_only": "adapted, no context vector",
}
RIVALS = ("zero_shot", "mean_removed", "few_shot_8", "few_shot_16")

Results = dict[str, dict[str, list[Metrics]]]  # by data set and method, one entry a seed


@dataclass(frozen=True)
class Size:
    """How much is run: rows per data set, optimiser steps, and for how many seeds the two
    variants are fitted that are for the record."""

    train: int
    test: int
    rounds: int
    local_steps: int
    ablation_seeds: int


FULL = Size(train=256, test=200, rounds=5, local_steps=60, ablation_seeds=1)
QUICK = Size(train=96, test=80, rounds=2, local_steps=40, ablation_seeds=0)


@dataclass(frozen=True)
class DataSet:
    """A labelled task with its fixed test rows."""

    task: TaskDefinition
    train: Sequence[Example]
    test: Sequence[Example]


def load_data_set(folder: Path, name: str, size: Size) -> DataSet:
    """Read a data set and fix its test rows."""
    names = json.loads((folder / name / "labels.json").read_text(encoding="utf-8"))
    labels = (Label(name=label, verbalization=WORDS.get(label, label.lower())) for label in names)
    prompt = PromptTemplate.of(TEMPLATES[name])
    test = read_examples(folder / name / "test.jsonl")
    return DataSet(
        TaskDefinition(name, prompt, tuple(labels)),
        read_examples(folder / name / "train.jsonl"),
        random.Random(0).sample(test, size.test),
    )


def measure(
    model: HookedModel, data: DataSet, size: Size, seed: int
) -> Iterator[tuple[str, Metrics]]:
    """Every method once, on the training rows of a seed."""
    evaluation = Evaluation(model, data.task, data.test)
    train = random.Random(seed).sample(list(data.train), size.train)
    zero_shot = evaluation.zero_shot()
    yield "zero_shot", evaluation.metrics(zero_shot)
    removed = evaluation.mean_removed(zero_shot, [example.text for example in train])
    yield "mean_removed", evaluation.metrics(removed)
    for shots in SHOTS:
        scores = evaluation.few_shot(train, shots, seed)
        yield f"few_shot_{shots}", evaluation.metrics(scores)
    settings = Settings(
        layers=tuple(range(model.num_layers)),
        rounds=size.rounds,
        local_steps=size.local_steps,
        seed=seed,
    )
    yield "adapted", evaluation.metrics(adapt(evaluation, train, settings))
    if seed < size.ablation_seeds:
        vocabulary = replace(settings, loss="vocabulary")
        yield "adapted_vocabulary", evaluation.metrics(adapt(evaluation, train, vocabulary))
        scores = adapt(evaluation, train, settings, with_vector=False)
        yield "beta_only", evaluation.metrics(scores)


def adapt(
    evaluation: Evaluation,
    train: Sequence[Example],
    settings: Settings,
    with_vector: bool = True,
) -> FloatArray:
    """Calibrate one client's rows and score the test rows."""
    clients = (LocalClients if with_vector else WithoutVector)(
        evaluation.model, evaluation.task, [train], settings, Progress()
    )
    state = calibrate(clients, settings, Watch())
    mask = adapted_mask(evaluation.model.num_layers, settings.layers, settings.sites)
    return evaluation.adapted(fold(state.context_vector, state.current), mask)


class WithoutVector(LocalClients):
    """Fits with lambda * 0."""

    def received(self, context_vector: Tensor) -> Tensor:
        return torch.zeros_like(context_vector)


def run_data_set(
    model: str, dtype: str, folder: Path, name: str, size: Size, seeds: range
) -> dict[str, list[Metrics]]:
    """All methods and seeds on one data set."""
    hooked = open_model(model, dtype, "auto")
    data = load_data_set(folder, name, size)
    results: dict[str, list[Metrics]] = {}
    for seed in seeds:
        for method, metrics in measure(hooked, data, size, seed):
            results.setdefault(method, []).append(metrics)
            print(f"{name} seed {seed} {method}: {metrics['accuracy']:.3f}", flush=True)
    return results


def run(model: str, dtype: str, folder: Path, size: Size, seeds: range, jobs: int) -> Results:
    """All data sets, `jobs` at a time; the longest texts first."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {
            name: pool.submit(run_data_set, model, dtype, folder, name, size, seeds)
            for name in reversed(TEMPLATES)
        }
        return {name: running[name].result() for name in TEMPLATES}


def joined(earlier: Results, more: Results) -> Results:
    """The seeds of both, in order."""
    return {
        name: {method: runs + more[name].get(method, []) for method, runs in earlier[name].items()}
        for name in earlier
    }


def headline(results: Results) -> dict[str, float]:
    """Ratios of mean accuracy over data sets, adapted to each rival."""

    def accuracy(method: str) -> float:
        return fmean(mean(runs[method], "accuracy") for runs in results.values())

    return {
        f"adapted_to_{rival}_accuracy": round(accuracy("adapted") / accuracy(rival), 3)
        for rival in RIVALS
    }


def mean(runs: Sequence[Metrics], metric: str) -> float:
    """Mean of a metric over seeds."""
    return fmean(run[metric] for run in runs)


def spread(runs: Sequence[Metrics], metric: str) -> float:
    """Sample standard deviation of a metric over seeds; 0 for one seed."""
    return stdev(run[metric] for run in runs) if len(runs) > 1 else 0.0


def table_rows(results: Results) -> list[list[str]]:
    """One row a method: accuracy in percent with its spread, and log-loss, per data set."""
    present = next(iter(results.values()))
    rows = []
    for method in present:
        cells = [METHODS[method]]
        for runs in results.values():
            accuracy = 100 * mean(runs[method], "accuracy")
            deviation = 100 * spread(runs[method], "accuracy")
            loss = mean(runs[method], "log_loss")
            cells.append(f"{accuracy:.1f} ± {deviation:.1f} ({loss:.2f})")
        rows.append(cells)
    return rows


def write_table(results: Results, workload: str, path: Path) -> None:
    """The table in Markdown, beside the JSON file."""
    header = ["accuracy % ± sd over seeds (log-loss)", *results]
    lines = [header, ["---"] * len(header), *table_rows(results)]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    path.with_suffix(".md").write_text(f"{workload}\n\n{text}\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="under 5 minutes on 2 cores")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--seeds", type=int, help="default 5, with --quick 2")
    parser.add_argument("--resume", action="store_true", help="add seeds to those in --json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="data sets at a time")
    parser.add_argument("--dtype", default="fp32", help="fp32 or bf16")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    seeds = args.seeds or (2 if args.quick else 5)
    console = Console()
    started = time.monotonic()
    settings = {"model": Path(args.model).name, "dtype": args.dtype, "size": asdict(size)}
    store = Store(args.json, settings, args.resume)
    done = len(next(iter(store.results.values()))["zero_shot"]) if store.results else 0
    more = run(args.model, args.dtype, args.data, size, range(done, seeds), args.jobs)
    store.results = results = joined(store.results, more) if done else more
    table = Table("accuracy % ± sd (log-loss)", *results)
    for cells in table_rows(results):
        table.add_row(*cells)
    console.print(table)
    numbers = headline(results)
    workload = (
        f"Model {Path(args.model).name}, {args.dtype}, {seeds} seeds, {size.train} training and "
        f"{size.test} test rows, {size.rounds} x {size.local_steps} steps, "
        f"{machine()}."
    )
    seconds = round(time.monotonic() - started, 1)
    store.write(
        {"headline": numbers, "workload": workload, "seconds": seconds, "versions": versions()}
    )
    if args.json:
        write_table(results, workload, args.json)
    show_headline(numbers)


if __name__ == "__main__":
    main()
