"""Cells of a table of the ladder, measured a few at a time and kept as they are made."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.common.report import machine, options, show_headline
from bench.common.store import Store
from bench.ladder.lora import RATES
from bench.ladder.table import headline, markdown
from calibration.model.hooked import HookedModel
from calibration.model.load import open_model
from calibration.result.record import versions
from calibration.settings import Machine


@dataclass(frozen=True)
class Cell:
    """A measurement; `key` names it in the results. `group` is the table it belongs to: a number of
    training rows, or a split."""

    data: str
    group: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.data}/{self.group}/{self.seed}"


def cell_options(module_doc: str | None) -> argparse.ArgumentParser:
    """A parser of what every table of cells is told."""
    parser = options(module_doc, quick="under 5 minutes on 2 cores")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--resume", action="store_true", help="go on with those in --json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cells at a time")
    return parser


Rates = Mapping[int, Sequence[float]]  # LoRA's learning rates to try, by rank


@cache
def base_model(source: str) -> HookedModel:
    """Once in a process."""
    return open_model(source, Machine("fp32", "cpu"))


def rates(results: Mapping[str, Any], ranks: Sequence[int], cell: Cell) -> Rates:
    """For seed 0 all, then the one that it has chosen."""
    if cell.seed == 0:
        return dict.fromkeys(ranks, RATES)
    methods = results[replace(cell, seed=0).key]["methods"] if ranks else {}
    return {rank: (methods[f"lora_{rank}"]["rate"],) for rank in ranks}


def measure_cells(
    args: argparse.Namespace,
    settings: Mapping[str, Any],
    cells: Sequence[Cell],
    ranks: Sequence[int],
    run: Callable[[Cell, Rates], dict[str, Any]],
) -> None:
    """All that a table of cells does once it knows them: measure, keep, show. `ranks` are LoRA's;
    without there is no headline, which compares with it."""
    store = Store(args.json, {"model": Path(args.model).name, **settings}, args.resume)
    numbers = tell(store, cells, ranks)
    for cell in fill(store, cells, ranks, run, args.jobs):
        numbers = tell(store, cells, ranks)
        print(f"{len(store.results)} of {len(cells)}: {cell.key}", flush=True)
    show_headline(numbers)


def tell(store: Store, cells: Sequence[Cell], ranks: Sequence[int]) -> dict[str, float]:
    """The headline, written with the table of what there is by now: a run may be cut short."""
    results = {cell.key: store.results[cell.key] for cell in cells if cell.key in store.results}
    numbers = headline(results) if ranks else {}
    store.write({"headline": numbers, "machine": machine(), "versions": versions()})
    if store.path is not None:
        table = markdown(results)
        store.path.with_suffix(".md").write_text(f"{table}\n", encoding="utf-8")
    return numbers


def fill(
    store: Store,
    cells: Sequence[Cell],
    ranks: Sequence[int],
    run: Callable[[Cell, Rates], dict[str, Any]],
    jobs: int,
) -> Iterator[Cell]:
    """Measure what the store lacks, `jobs` at a time, each in a process, seed 0 first; the cells as
    they are done."""
    missing = [cell for cell in cells if cell.key not in store.results]
    tuning = [cell for cell in missing if cell.seed == 0]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for some in (tuning, [cell for cell in missing if cell.seed]):
            asked = {
                pool.submit(run, cell, rates(store.results, ranks, cell)): cell for cell in some
            }
            try:
                for done in as_completed(asked):
                    store.add(asked[done].key, done.result())
                    yield asked[done]
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else it runs all others before it is told
                raise
