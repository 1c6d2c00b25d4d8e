"""Cells of a table of the ladder, measured a few at a time and kept as they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from typing import Any

from bench.common.store import Store
from bench.ladder.lora import RATES
from calibration.model.hooked import HookedModel
from calibration.model.load import open_model
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


def fill(
    store: Store,
    cells: Sequence[Cell],
    ranks: Sequence[int],
    run: Callable[[Cell, Rates], dict[str, Any]],
    jobs: int,
) -> None:
    """Measure what the store lacks, `jobs` at a time, each in a process; seed 0 first."""
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
                    print(f"{len(store.results)} of {len(cells)}: {asked[done].key}", flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else it runs all others before it is told
                raise
