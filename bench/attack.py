"""How much of a client's examples somebody can recover from a message that it sends.

The attacker has the base model, the task and public texts of it (other rows of the same data
set), and sees one message of a client with 1, 8 or 64 examples: its context vector, the sums that
label rows are fitted from, or its update of channels after a round; as it is, or private with
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
from torch import Tensor

from bench.common.data_sets import PAPER, load_data_set
from bench.common.report import machine, options, report
from bench.federation.attack_messages import Message, Scene, prepare, received
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
KINDS = {
    "vector": "*Context vector*: the mean activation.",
    "label rows": "*Label rows*: class sums of last hidden states and counts; exact ones in five "
    "folds, so a label with one row in a fold gives that row's last hidden state away as it is "
    "(second moments, which are told too, are left out here). With epsilon there are no folds, and "
    "rows are clipped.",
    "channels": "*Channels*: the update after one round, as the mean of its steps' gradients.",
}

Scores = dict[str, list[float]]  # by attack, and attack + "_chance": one value a draw
Results = dict[str, dict[str, dict[str, Scores]]]  # by data set, message and number of examples


@dataclass(frozen=True)
class Size:
    """How much is run: rows per data set for the attacker and for the clients, messages
    the attacker makes, and how many times how many clients are attacked."""

    public: int
    private: int
    made: int
    draws: int
    clients: int
    counts: tuple[int, ...]
    words: int = 1000


FULL = Size(public=1000, private=810, made=1000, draws=3, clients=40, counts=(1, 8, 64))
QUICK = Size(public=480, private=216, made=300, draws=2, clients=25, counts=(1, 8, 16))


def attack(
    scene: Scene,
    message: Message,
    adds: tuple[Tensor, Tensor],
    membership: Membership,
    count: int,
    size: Size,
) -> Scores:
    """All attacks on messages of `count` examples, `size.draws` times on fresh clients. `adds` are
    what public and private rows add to a message."""
    generator = np.random.default_rng(count)
    public, private = scene.public, scene.private
    made = [draw_client(public.labels, count, generator) for _ in range(size.made)]
    inversion = Inversion(received(message, adds[0], made, generator), public.facts(made))
    scores: Scores = {}
    for _ in range(size.draws):
        clients = [draw_client(private.labels, count, generator) for _ in range(size.clients)]
        seen = received(message, adds[1], clients, generator)
        found, truth = inversion.recovered(seen), private.facts(clients)
        guessed = inversion.guessed(len(clients))
        for name, metric in METRICS.items():
            scores.setdefault(name, []).append(metric(found, truth))
            scores.setdefault(f"{name}_chance", []).append(metric(guessed, truth))
        strangers = [draw_strangers(private.labels, members, generator) for members in clients]
        ratios = [
            [
                membership.scores(one, positions, count, message.deviation(count))
                for one, positions in zip(seen, people, strict=True)
            ]
            for people in (clients, strangers)
        ]
        scores.setdefault("member", []).append(membership_auc(*ratios))
        scores.setdefault("member_chance", []).append(0.5)
    return scores


def run(model: HookedModel, folder: Path, size: Size) -> Results:
    """All data sets, messages and numbers of examples."""
    results: Results = {}
    for name in PAPER:
        data = load_data_set(folder, name, TEST_ROWS)
        scene = prepare(model, data, size.public, size.private, size.words)
        for title, message in scene.messages():
            adds = message.added(scene.public), message.added(scene.private)
            membership = Membership(*(added.flatten(1).numpy() for added in adds))
            for count in size.counts:
                scores = attack(scene, message, adds, membership, count, size)
                results.setdefault(name, {}).setdefault(title, {})[str(count)] = scores
                found = ", ".join(f"{key} {fmean(scores[key]):.2f}" for key in ATTACKS)
                print(f"{name} {title} {count}: {found}", flush=True)
    return results


def average(results: Results, message: str, count: str, key: str) -> float:
    """Mean of a score over data sets and draws."""
    return fmean(fmean(runs[message][count][key]) for runs in results.values())


def headline(results: Results) -> dict[str, float]:
    """Every attack on exact and private messages of each kind, of the fewest and the most
    examples."""
    counts = list(next(iter(results.values()))["vector, exact"])
    return {
        f"{key}_{kind}_{privacy}_{count}".replace(" ", ""): round(
            average(results, f"{kind}, {privacy}", count, key), 3
        )
        for key in ATTACKS
        for kind in KINDS
        for privacy in ("exact", "epsilon 8")
        for count in (counts[0], counts[-1])
    }


def table_rows(runs: dict[str, dict[str, Scores]]) -> list[list[str]]:
    """One row a message and number of examples: each attack, its spread, and chance."""
    rows = []
    for message, by_count in runs.items():
        for count, scores in by_count.items():
            cells = [f"{message}, {count}"]
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
    few, *_, many = next(iter(results.values()))["vector, exact"]

    def said(message: str, count: str) -> str:
        value = {key: average(results, message, count, key) for key in ATTACKS}
        chance = {key: average(results, message, count, f"{key}_chance") for key in ATTACKS}
        return (
            f"names the commonest label of {value['label']:.0%} of clients (by chance "
            f"{chance['label']:.0%}), has {10 * value['top_words']:.1f} of ten words right "
            f"(guessing frequent ones {10 * chance['top_words']:.1f}), and tells a member from a "
            f"stranger with an AUC of {value['member']:.2f} (by chance 0.50)"
        )

    kinds = [
        f"{what} Of {few} example it {said(f'{kind}, exact', few)}. Of {many} it "
        f"{said(f'{kind}, exact', many)}. With epsilon 8 and {many} examples it "
        f"{said(f'{kind}, epsilon 8', many)}; with epsilon 1 it {said(f'{kind}, epsilon 1', many)}."
        for kind, what in KINDS.items()
    ]
    return "\n\n".join(
        [
            "What this means. No message holds text, and none is anonymous: treat each like the "
            "examples behind it. Mean over the data sets, somebody with the base model and public "
            "texts of the task:",
            *kinds,
            "Words are recovered as a list of candidates, never as sentences, and sending int8 "
            "hides nothing. Privacy is per example: what many examples have in common, such as "
            "their commonest label, stays visible. Better attackers may exist: only epsilon is a "
            "guarantee, the rest is what these managed.",
        ]
    )


def write_tables(results: Results, workload: str, path: Path) -> None:
    """The tables in Markdown, beside the JSON file."""
    sections = [workload, reading(results)]
    for name, runs in results.items():
        header = [f"{name}: message, examples behind it", *ATTACKS.values()]
        lines = [header, ["---"] * len(header), *table_rows(runs)]
        sections.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
    path.with_suffix(".md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="under 5 minutes on two cores")
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
        f"{size.public} public rows, {size.made} messages made to learn from, {size.words} "
        f"words; vectors and channels in the budget of {Settings.rounds} x "
        f"{Settings.local_steps} steps, label rows in theirs, at delta {Settings.delta:g}; "
        f"{machine()}."
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
