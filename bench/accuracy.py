"""Accuracy of every rung and of its rivals, on six public data sets with one frozen model.

Zero-shot; zero-shot with the mean label logit removed (contextual calibration, arXiv 2102.09690:
the honest cheap rival); 8- and 16-shot prompts; every rung of the ladder, and the one that `auto`
chooses; LoRA of rank 8 and 1, its round chosen by the same held-out rows as ours and its learning
rate by those of seed 0 for each data set and number of rows (ours has one for all), without and
with the same readout on top. All see the same training rows and are scored by the same code on
the same test rows. A seed draws the training rows, the demonstrations and the batches; the test
rows stay.

    python -m bench.accuracy --data DIR --model PATH [--quick] [--resume] --json FILE

Every measurement is kept as it is made: a killed run goes on with --resume. `--extent tail` runs
ours alone, adapting the tail of a prompt; name another file for it.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.common.data_sets import OTHERS, PAPER, load_data_set
from bench.ladder.cell import measure
from bench.ladder.cells import Cell, Rates, base_model, cell_options, measure_cells
from calibration.data.examples import split_held_out
from calibration.data.rows import Rows
from calibration.settings import Settings
from ifedicl_serve.contract.spec import Extent

HELD_OUT = 0.2
SHOTS = (8, 16)
RANKS = (8, 1)


@dataclass(frozen=True)
class Size:
    """Seeds by number of training rows, on the paper's sets and on the others; test rows."""

    paper: dict[int, int]
    others: dict[int, int]
    test: int
    rounds: int = 5
    local_steps: int = 60


FULL = Size(paper={320: 5, 32: 3, 2000: 1}, others={320: 3, 32: 3, 2000: 1}, test=500)
QUICK = Size(paper={160: 1}, others={}, test=100, rounds=2, local_steps=20)


def plan(size: Size) -> list[Cell]:
    """All cells, seed after seed, so that a run that is cut short has something of everything."""
    cells = [
        Cell(name, str(rows), seed)
        for names, counts in ((PAPER, size.paper), (OTHERS, size.others))
        for rows, seeds in counts.items()
        for name in names
        for seed in range(seeds)
    ]
    return sorted(cells, key=lambda cell: (cell.seed, int(cell.group) > 1000))


def run(
    source: str, folder: Path, size: Size, extent: Extent, cell: Cell, rates: Rates
) -> dict[str, Any]:
    """One cell; what adapts the tail alone stands beside no few-shot prompt."""
    model = base_model(source)
    settings = Settings(
        layers=tuple(range(model.num_layers)),
        extent=extent,
        rounds=size.rounds,
        local_steps=size.local_steps,
        seed=cell.seed,
    )
    data = load_data_set(folder, cell.data, size.test)
    drawn = random.Random(cell.seed).sample(list(data.train), int(cell.group))
    rows = Rows(*split_held_out(drawn, HELD_OUT, cell.seed))
    return measure(model, source, data, [rows], settings, SHOTS if extent == "all" else (), rates)


def main() -> None:
    """Command line."""
    parser = cell_options(__doc__)
    parser.add_argument("--extent", choices=["all", "tail"], default="all")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    settings = {"extent": args.extent, "size": asdict(size)}
    ranks = RANKS if args.extent == "all" else ()  # LoRA adapts every token
    one = partial(run, args.model, args.data, size, args.extent)
    measure_cells(args, settings, plan(size), ranks, one)


if __name__ == "__main__":
    main()
