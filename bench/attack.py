"""How much of a client's examples somebody can recover from the vector it uploads.

The attacker has the base model, the task and public texts of it (other rows of the same data
set), and sees one vector: the mean over 1, 8 or 64 examples, as it is, in int8, or private with
epsilon 8 and 1. It tries to name the client's commonest label, the words in its texts, and
whether a given example is the client's. Every number stands beside what is right by chance.

    python -m bench.attack --data DIR --model PATH [--quick] --json FILE
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.common.data_sets import PAPER, load_data_set
from bench.common.report import machine, options, report
from bench.federation.attack_vectors import Channel, Scene, channels, prepare
from bench.federation.attackers import (
    Inversion,
    Membership,
    draw_client,
    draw_strangers,
    majority_accuracy,
    membership_auc,
    top_words,
    word_auc,
)
from calibration.model.hooked import HookedModel
from calibration.model.load import open_model
from calibration.result.record import versions
from calibration.settings import Machine, Settings

TEST_ROWS = 200
METRICS = {"label": majority_accuracy, "word_auc": word_auc, "top_words": top_words}
ATTACKS = {
    "label": "commonest label named %",
    "word_auc": "who has a word, AUC",
    "top_words": "10 words named, % right",
    "member": "membership, AUC",
}

Scores = dict[str, list[float]]  # by attack, and attack + "_chance": one value a draw
Results = dict[str, dict[str, dict[str, Scores]]]  # by data set, channel and number of examples


@dataclass(frozen=True)
class Size:
    """How much is run: rows per data set for the attacker and for the clients, vectors the
    attacker makes, and how many times how many clients are attacked."""

    public: int
    private: int
    made: int
    draws: int
    clients: int
    counts: tuple[int, ...]
    words: int = 1000


FULL = Size(public=1500, private=810, made=1500, draws=5, clients=40, counts=(1, 8, 64))
QUICK = Size(public=480, private=216, made=400, draws=2, clients=25, counts=(1, 8, 16))


def attack(
    scene: Scene, channel: Channel, membership: Membership, count: int, size: Size
) -> Scores:
    """All attacks on vectors of `count` examples, `size.draws` times on fresh clients."""
    generator = np.random.default_rng(count)
    public, private = scene.public, scene.private
    made = [draw_client(public.labels, count, generator) for _ in range(size.made)]
    vectors = scene.vectors(public, made, channel, generator)
    inversion = Inversion(vectors, public.facts(made))
    scores: Scores = {}
    for _ in range(size.draws):
        clients = [draw_client(private.labels, count, generator) for _ in range(size.clients)]
        vectors = scene.vectors(private, clients, channel, generator)
        found, truth = inversion.recovered(vectors), private.facts(clients)
        guessed = inversion.guessed(len(clients))
        for name, metric in METRICS.items():
            scores.setdefault(name, []).append(metric(found, truth))
            scores.setdefault(f"{name}_chance", []).append(metric(guessed, truth))
        strangers = [draw_strangers(private.labels, members, generator) for members in clients]
        ratios = [
            [
                membership.scores(vector, positions, count, channel.deviation(count))
                for vector, positions in zip(vectors, people, strict=True)
            ]
            for people in (clients, strangers)
        ]
        scores.setdefault("member", []).append(membership_auc(*ratios))
        scores.setdefault("member_chance", []).append(0.5)
    return scores


def run(model: HookedModel, folder: Path, size: Size) -> Results:
    """All data sets, channels and numbers of examples."""
    results: Results = {}
    for name in PAPER:
        data = load_data_set(folder, name, TEST_ROWS)
        scene = prepare(model, data, size.public, size.private, size.words)
        for title, channel in channels(model.num_layers).items():
            membership = Membership(scene.public.bounded(channel), scene.private.bounded(channel))
            for count in size.counts:
                scores = attack(scene, channel, membership, count, size)
                results.setdefault(name, {}).setdefault(title, {})[str(count)] = scores
                found = ", ".join(f"{key} {fmean(scores[key]):.2f}" for key in ATTACKS)
                print(f"{name} {title} {count}: {found}", flush=True)
    return results


def average(results: Results, channel: str, count: str, key: str) -> float:
    """Mean of a score over data sets and draws."""
    return fmean(fmean(runs[channel][count][key]) for runs in results.values())


def headline(results: Results) -> dict[str, float]:
    """Every attack on exact and private vectors of the fewest and the most examples."""
    counts = list(next(iter(results.values()))["exact"])
    return {
        f"{key}_{channel.replace(' ', '')}_{count}": round(average(results, channel, count, key), 3)
        for key in ATTACKS
        for channel in ("exact", "epsilon 8")
        for count in (counts[0], counts[-1])
    }


def table_rows(runs: dict[str, dict[str, Scores]]) -> list[list[str]]:
    """One row a channel and number of examples: each attack, its spread, and chance."""
    rows = []
    for channel, by_count in runs.items():
        for count, scores in by_count.items():
            cells = [f"{channel}, {count}"]
            for key in ATTACKS:
                scale = 1.0 if key in ("word_auc", "member") else 100.0
                digits = 2 if scale == 1.0 else 0
                mean, chance = (scale * fmean(scores[name]) for name in (key, f"{key}_chance"))
                spread = scale * (stdev(scores[key]) if len(scores[key]) > 1 else 0.0)
                cells.append(f"{mean:.{digits}f} ± {spread:.{digits}f} ({chance:.{digits}f})")
            rows.append(cells)
    return rows


def reading(results: Results) -> str:
    """The numbers in plain words."""
    few, *_, many = next(iter(results.values()))["exact"]

    def said(channel: str, count: str) -> str:
        value = {key: average(results, channel, count, key) for key in ATTACKS}
        chance = {key: average(results, channel, count, f"{key}_chance") for key in ATTACKS}
        return (
            f"names the commonest label of {value['label']:.0%} of clients (by chance "
            f"{chance['label']:.0%}), has {10 * value['top_words']:.1f} of ten words right "
            f"(guessing frequent ones {10 * chance['top_words']:.1f}), and tells a member from a "
            f"stranger with an AUC of {value['member']:.2f} (by chance 0.50)"
        )

    return (
        "What this means. A context vector is not text, but it is not anonymous either: treat it "
        "like the examples behind it. Mean over the data sets, somebody with the base model and "
        f"public texts of the task who sees the exact vector of {few} example "
        f"{said('exact', few)}. From the mean of {many} examples it {said('exact', many)}. With "
        f"epsilon 8 and {many} examples it {said('epsilon 8', many)}; with epsilon 1 it "
        f"{said('epsilon 1', many)}. Words are recovered as a list of candidates, never as "
        "sentences, and sending int8 hides nothing. Privacy is per example: what many examples "
        "have in common, such as their commonest label, stays visible. Better attackers may "
        "exist: only epsilon is a guarantee, the rest is what these managed."
    )


def write_tables(results: Results, workload: str, path: Path) -> None:
    """The tables in Markdown, beside the JSON file."""
    sections = [workload, reading(results)]
    for name, runs in results.items():
        header = [f"{name}: vector, examples behind it", *ATTACKS.values()]
        lines = [header, ["---"] * len(header), *table_rows(runs)]
        sections.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
    path.with_suffix(".md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="under 2 minutes on one core")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--dtype", default="fp32", help="fp32 or bf16")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    started = time.monotonic()
    results = run(open_model(args.model, Machine(args.dtype)), args.data, size)
    for name, runs in results.items():
        table = Table("value ± sd (chance)", *ATTACKS.values(), title=name)
        for cells in table_rows(runs):
            table.add_row(*cells)
        Console(width=120).print(table)
    workload = (
        f"Model {Path(args.model).name}, {args.dtype}. Value ± sd over {size.draws} draws of "
        f"{size.clients} clients (by chance), labels of a client Dirichlet(0.5), "
        f"{size.public} public rows, {size.made} vectors made to learn from, {size.words} "
        f"words; private vectors in the budget of {Settings.rounds} x {Settings.local_steps} "
        f"steps at delta {Settings.delta:g}; {machine()}."
    )
    record = {
        "headline": headline(results),
        "workload": workload,
        "settings": {"model": Path(args.model).name, "dtype": args.dtype, "size": asdict(size)},
        "seconds": round(time.monotonic() - started, 1),
        "versions": versions(),
        "results": results,
    }
    report(args.json, record)
    if args.json:
        write_tables(results, workload, args.json)


if __name__ == "__main__":
    main()
