"""What bench/federated.py measures: data sets, splits, methods and ablations, as a list of cells.

Knows no models and computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from bench.federation.lora import Lora
from bench.federation.rounds import Poison, Variant

DATA = ("subj", "emotion", "ag_news")
SPLITS = ("dirichlet", "iid")
ALPHA = 0.5
SHOTS = 8
LOCAL = "local"
EVERY_ROUND = ("federated", "lora")  # measured after every round, for the figures
BASELINES = ("zero_shot", "mean_removed", f"few_shot_{SHOTS}")
ABLATED = ("subj", "emotion")  # ag_news costs as much as both
# Each the best of those tried by mean log-loss on the tuning seed (table in results/federated.md).
LEARNING_RATES = {"ours": 0.2, "centralised": 0.1, "lora": 3e-3, "lora at equal bytes": 1e-2}
TUNING_SEED = 100  # measured on training rows outside its pool, never on test rows

OURS = {
    "federated": Variant(),
    "last 4 layers": Variant({"layers": "last:4"}),
    "attn only": Variant({"sites": ("attn",)}),
    "mlp only": Variant({"sites": ("mlp",)}),
    "1 round": Variant({"rounds": 1}),
    "3 rounds": Variant({"rounds": 3}),
    "10 rounds": Variant({"rounds": 10}),
    "5 times the steps": Variant({"local_steps": 40}),
    "5 times the steps, 10 rounds": Variant({"local_steps": 20, "rounds": 10}),
    "1 demonstration": Variant({"demonstrations": 1}),
    "8 demonstrations": Variant({"demonstrations": 8}),
    "lambda only": Variant(coefficients="lambda"),
    "beta only (no vector)": Variant(coefficients="beta"),
    "vocabulary loss": Variant({"loss": "vocabulary"}),
    "vector as fp16": Variant(wire="fp16"),
    "vector as int8": Variant(wire="int8"),
    "epsilon 8": Variant({"epsilon": 8.0}),
}
CENTRALISED = {
    "centralised": Variant({"learning_rate": LEARNING_RATES["centralised"]}),
    **{f"centralised, lr {lr:g}": Variant({"learning_rate": lr}) for lr in (0.05, 0.1, 0.2)},
}
RULES = ("fedavg", "median", "trimmed_mean", "krum", "multi_krum")
POISONS = {
    f"{rule}, {poison} poisoned": Variant({"aggregation": rule}, poison=poison)
    for poison in get_args(Poison)
    for rule in RULES
    if (rule, poison) != ("fedavg", "no")  # that is "federated"
}
SKEWED_POISONS = [  # the same on the skewed split, where honest clients differ too
    f"{rule}, {poison} poisoned" for rule in ("median", "multi_krum") for poison in ("no", "update")
]
DISAGREEING = [  # splits on which averaging itself is in question
    ("one_label", "federated"),
    ("contradictory", "federated"),
    ("contradictory", "median, no poisoned"),
    ("contradictory", "multi_krum, no poisoned"),
]
CONTRARY = 2  # clients of the five that call the labels by each other's names
SMALLEST: dict[str, Any] = {"rank": 1, "projections": ("q_proj",), "rounds": 1}
LORAS = {
    "lora": Lora(LEARNING_RATES["lora"]),
    "lora at equal bytes": Lora(LEARNING_RATES["lora at equal bytes"], **SMALLEST),
}
TUNING: dict[str, Variant | Lora] = {
    **{f"ours, lr {lr:g}": Variant({"learning_rate": lr}) for lr in (0.05, 0.1, 0.2, 0.4)},
    **{name: variant for name, variant in CENTRALISED.items() if ", lr " in name},
    **{f"lora, lr {lr:g}": Lora(lr) for lr in (1e-3, 3e-3, 1e-2)},
    **{f"lora at equal bytes, lr {lr:g}": Lora(lr, **SMALLEST) for lr in (3e-3, 1e-2, 3e-2)},
}
ABLATIONS = [name for name in (*OURS, *LORAS) if name not in ("federated", "lora")]
VARIANTS: dict[str, Variant | Lora] = {**OURS, **POISONS, **LORAS, **TUNING}


@dataclass(frozen=True)
class Size:
    """How much is run."""

    examples: int  # per client, on average
    test: int
    rounds: int
    local_steps: int
    batch_size: int
    seeds: int
    ablations: bool
    clients: int = 5


FULL = Size(64, 200, rounds=5, local_steps=8, batch_size=4, seeds=3, ablations=True)
QUICK = Size(16, 40, rounds=2, local_steps=4, batch_size=4, seeds=1, ablations=False)


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    data: str
    seed: int
    split: str
    method: str

    @property
    def key(self) -> str:
        return f"{self.data}/{self.seed}/{self.split}/{self.method}"


def plan(seeds: int, ablations: bool) -> Iterator[Cell]:
    """Every measurement; the first seed and its ablations before the other seeds."""
    yield from main_table(range(1))
    if ablations:
        tasks = [("iid", 0, name) for name in POISONS]
        tasks += [("dirichlet", 0, name) for name in (*ABLATIONS, *SKEWED_POISONS)]
        tasks += [(split, 0, method) for split, method in DISAGREEING]
        tasks += [("dirichlet", TUNING_SEED, name) for name in TUNING]
        for split, seed, method in tasks:
            yield from (Cell(data, seed, split, method) for data in ABLATED)
    yield from main_table(range(1, seeds))


def main_table(seeds: range) -> Iterator[Cell]:
    """Every method on every data set."""
    for seed in seeds:
        for data in DATA:
            for method in (*BASELINES, "centralised"):
                yield Cell(data, seed, "pool", method)
            for split in SPLITS:
                for method in (LOCAL, "federated", "lora"):
                    yield Cell(data, seed, split, method)
