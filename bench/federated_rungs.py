"""Every rung federated, beside federated LoRA, at the size of the paper.

Ten clients share up to 5,000 rows, skewed (Dirichlet 0.5) or each with one label; a tenth of each
client's rows is held out. Five rounds, in which a client takes as many steps as one pass over its
share needs. Federated LoRA has the same clients, rows, steps and rounds; its learning rate is
chosen by the held-out rows of seed 0. Seconds of a core and bytes, both ways, are a client's.

    python -m bench.federated_rungs --data DIR --model PATH [--quick] [--resume] --json FILE

Every measurement is kept as it is made: a killed run goes on with --resume. Clients are in one
process; Flower carries the same numbers (tests/federation).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.common.data_sets import PAPER, load_data_set
from bench.ladder.cell import measure
from bench.ladder.cells import Cell, Rates, base_model, cell_options, measure_cells
from calibration.data.examples import Example, split_held_out
from calibration.data.partition import Clients, dirichlet, one_label
from calibration.data.rows import Rows
from calibration.settings import Settings

CLIENTS = 10
HELD_OUT = 0.1
RANKS = (8,)
Split = Callable[[Sequence[Example], int], Clients]
SPLITS: dict[str, Split] = {
    "Dirichlet 0.5": lambda rows, seed: dirichlet(rows, CLIENTS, 0.5, seed),
    "one label a client": lambda rows, seed: one_label(rows, CLIENTS, seed),
}


@dataclass(frozen=True)
class Size:
    """How much is run."""

    rows: int
    test: int
    seeds: int
    rounds: int
    local_steps: int


FULL = Size(rows=5000, test=500, seeds=2, rounds=5, local_steps=12)
QUICK = Size(rows=200, test=50, seeds=1, rounds=2, local_steps=2)


def plan(size: Size) -> list[Cell]:
    """All cells, seed after seed."""
    return [
        Cell(name, split, seed) for seed in range(size.seeds) for split in SPLITS for name in PAPER
    ]


def run(source: str, folder: Path, size: Size, cell: Cell, rates: Rates) -> dict[str, Any]:
    """One cell."""
    model = base_model(source)
    settings = Settings(
        layers=tuple(range(model.num_layers)),
        rounds=size.rounds,
        local_steps=size.local_steps,
        seed=cell.seed,
    )
    data = load_data_set(folder, cell.data, size.test)
    drawn = random.Random(cell.seed).sample(list(data.train), min(size.rows, len(data.train)))
    parts = [
        Rows(*split_held_out(part, HELD_OUT, cell.seed))
        for part in SPLITS[cell.group](drawn, cell.seed)
    ]
    return measure(model, source, data, parts, settings, (), rates)


def main() -> None:
    """Command line."""
    args = cell_options(__doc__).parse_args()
    size = QUICK if args.quick else FULL
    settings = {"clients": CLIENTS, "size": asdict(size)}
    measure_cells(args, settings, plan(size), RANKS, partial(run, args.model, args.data, size))


if __name__ == "__main__":
    main()
