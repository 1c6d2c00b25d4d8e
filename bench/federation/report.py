"""Tables, headline and figures of bench/federated.py. Knows results by key, and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from calibration.federation.wire.tensors import encoded_bytes

Results = dict[str, dict[str, Any]]  # by "data/seed/split/method"

LLAMA_3_8B = (32, 2, 4096)  # layers, sites, hidden size
NOTES = "\n## Findings\n"  # what stands from here on in the Markdown file is written by hand
ROWS = {
    ("pool", "zero_shot"): "zero-shot",
    ("pool", "mean_removed"): "contextual calibration",
    ("pool", "few_shot_8"): "8-shot prompt",
    ("pool", "centralised"): "centralised on the pooled data",
    ("dirichlet", "local"): "Dirichlet 0.5: local only",
    ("dirichlet", "federated"): "Dirichlet 0.5: **federated**",
    ("dirichlet", "lora"): "Dirichlet 0.5: federated LoRA, rank 8",
    ("iid", "local"): "IID: local only",
    ("iid", "federated"): "IID: **federated**",
    ("iid", "lora"): "IID: federated LoRA, rank 8",
}
COLORS = {"federated": "C0", "lora": "C1", "centralised": "C2", "zero_shot": "0.5"}


class Table:
    """Results of the first `seeds` seeds, looked up by data set, split and method."""

    def __init__(self, results: Results, seeds: int) -> None:
        self.results, self.seeds = results, seeds
        self.data = list(dict.fromkeys(key.split("/")[0] for key in results))

    def runs(self, data: str, split: str, method: str) -> list[dict[str, Any]]:
        """One record a seed; none if it was not measured."""
        keys = (f"{data}/{seed}/{split}/{method}" for seed in range(self.seeds))
        return [self.results[key] for key in keys if key in self.results]

    def accuracies(self, data: str, split: str, method: str) -> list[float]:
        """Final accuracy in percent, one a seed."""
        return [percent(record) for record in self.runs(data, split, method)]

    def change(self, data: str, split: str, method: str, base: tuple[str, str]) -> float:
        """Percentage points from `base` (split and method) to `method`, over seeds of both."""
        pairs = zip(
            self.accuracies(data, split, method), self.accuracies(data, *base), strict=False
        )
        return fmean(ours - theirs for ours, theirs in pairs)

    def mean_change(self, split: str, method: str, base: tuple[str, str]) -> float:
        """`change`, the mean over the data sets that both were measured on."""
        both = [data for data in self.measured(split, method) if self.runs(data, *base)]
        return round(fmean(self.change(data, split, method, base) for data in both), 2)

    def measured(self, split: str, method: str) -> list[str]:
        """The data sets it was measured on."""
        return [data for data in self.data if self.runs(data, split, method)]

    def methods(self, split: str) -> list[str]:
        """Methods measured on a split in seed 0, in order."""
        keys = [key.split("/") for key in self.results]
        return list(dict.fromkeys(key[3] for key in keys if key[1] == "0" and key[2] == split))


def percent(record: dict[str, Any]) -> float:
    """Final accuracy in percent."""
    return 100 * record["metrics"][-1]["accuracy"]


def headline(results: Results, seeds: int) -> dict[str, float | int | None]:
    """The aims of the issue, as they fell; points are percentage points of accuracy."""
    table = Table(results, seeds)
    federated = ("dirichlet", "federated")
    numbers: dict[str, float | int | None] = {
        "llama_3_8b_coefficient_bytes_a_round": encoded_bytes((*LLAMA_3_8B[:2], 2), "fp32"),
        "llama_3_8b_vector_kib_fp16": encoded_bytes(LLAMA_3_8B, "fp16") / 1024,
        "llama_3_8b_vector_kib_int8": encoded_bytes(LLAMA_3_8B, "int8") / 1024,
        "federated_minus_centralised": table.mean_change(*federated, ("pool", "centralised")),
        "federated_minus_zero_shot": table.mean_change(*federated, ("pool", "zero_shot")),
        "federated_minus_lora": table.mean_change(*federated, ("dirichlet", "lora")),
        "lora_tokens_to_federated_accuracy_ratio": compute_ratio(table, "tokens"),
        "lora_seconds_to_federated_accuracy_ratio": compute_ratio(table, "seconds"),
    }
    if table.measured("dirichlet", "vector as int8"):
        equal = ("dirichlet", "lora at equal bytes")
        numbers["federated_minus_lora_at_equal_bytes"] = table.mean_change(*federated, equal)
        numbers["int8_change"] = table.mean_change("dirichlet", "vector as int8", federated)
        numbers["epsilon_8_change"] = table.mean_change("dirichlet", "epsilon 8", federated)
        for rule in ("fedavg", "median", "trimmed_mean", "krum", "multi_krum"):
            for poison in ("labels", "update"):
                method = f"{rule}, {poison} poisoned"
                change = table.mean_change("iid", method, ("iid", "federated"))
                numbers[f"{poison}_poisoned_{rule}_change"] = change
    return numbers


def compute_ratio(table: Table, what: str) -> float | None:
    """How many times as much a client of federated LoRA spends until it is as accurate as ours
    ends, against what ours spends until then: the median over runs, 0 where the bare model is as
    accurate, None if in most runs LoRA never gets there."""
    ratios = []
    for data in table.data:
        ours, theirs = (table.runs(data, "dirichlet", name) for name in ("federated", "lora"))
        for own, other in zip(ours, theirs, strict=True):
            target = own["metrics"][-1]["accuracy"]
            ratios.append(cost_to_reach(other, target, what) / cost_to_reach(own, target, what))
    middle = median(ratios)
    return round(middle, 2) if middle < inf else None


def cost_to_reach(record: dict[str, Any], target: float, what: str) -> float:
    """Seconds or tokens (forward and backward) of a client when `target` was first reached;
    infinity if it never was."""
    for metrics, spent in zip(record["metrics"], record["spent"], strict=True):
        if metrics["accuracy"] >= target:
            tokens = spent["forward_tokens"] + spent["backward_tokens"]
            return tokens if what == "tokens" else spent["seconds"]
    return inf


def rounds_to(record: dict[str, Any], fraction: float = 0.95) -> int:
    """Rounds until `fraction` of the final accuracy; 0 if it was there before the first."""
    accuracies = [metrics["accuracy"] for metrics in record["metrics"]]
    return next(n for n, value in enumerate(accuracies) if value >= fraction * accuracies[-1])


def accuracy_rows(table: Table) -> Iterator[list[str]]:
    """Accuracy with its spread over seeds, and log-loss."""
    yield ["accuracy % ± sd over seeds (log-loss)", *table.data]
    for (split, method), name in ROWS.items():
        cells = [name]
        for data in table.data:
            values = table.accuracies(data, split, method)
            spread = stdev(values) if len(values) > 1 else 0.0
            losses = [run["metrics"][-1]["log_loss"] for run in table.runs(data, split, method)]
            cells.append(f"{fmean(values):.1f} ± {spread:.1f} ({fmean(losses):.2f})")
        yield cells


def cost_rows(table: Table) -> Iterator[list[str]]:
    """What a client spends, the mean over data sets and seeds."""
    yield [
        "a client",
        "stage 1, bytes",
        "a round, bytes",
        "total, bytes",
        "CPU seconds",
        "tokens forward",
        "tokens backward",
        "rounds to 95 %",
    ]
    for (split, method), name in ROWS.items():
        runs = [run for data in table.data for run in table.runs(data, split, method)]
        if "bytes" not in runs[0]["spent"][-1] or method == "centralised":
            continue
        last = [run["spent"][-1] for run in runs]
        payload = [spent["bytes"] for spent in runs[0]["spent"]]
        yield [
            name,
            f"{payload[0]:,}",
            f"{(payload[-1] - payload[0]) // max(1, len(payload) - 1):,}",
            f"{payload[-1]:,}",
            f"{fmean(spent['seconds'] for spent in last):.1f}",
            f"{fmean(spent['forward_tokens'] for spent in last):,.0f}",
            f"{fmean(spent['backward_tokens'] for spent in last):,.0f}",
            "" if method == "local" else f"{fmean(map(rounds_to, runs)):.1f}",
        ]


def ablation_rows(
    table: Table, split: str, methods: Sequence[str], base: str = ""
) -> Iterator[list[str]]:
    """Accuracy of seed 0, with the change from federated as it is (on split `base`, if it is
    another), and log-loss."""
    measured = table.measured(split, methods[-1])
    yield ["accuracy % (change in points), log-loss", *measured, "mean change"]
    for method in methods:
        plain = (base or split, "federated")
        changes = [table.change(data, split, method, plain) for data in measured]
        last = [table.runs(data, split, method)[0]["metrics"][-1] for data in measured]
        cells = [
            f"{100 * metrics['accuracy']:.1f} ({change:+.1f}), {metrics['log_loss']:.2f}"
            for metrics, change in zip(last, changes, strict=True)
        ]
        yield [method, *cells, f"{fmean(changes):+.1f}"]


def tuning_rows(results: Results) -> Iterator[list[str]]:
    """Accuracy of every learning rate on the tuning seed."""
    found = [(key.split("/"), record) for key, record in results.items() if ", lr " in key]
    data = list(dict.fromkeys(key[0] for key, _ in found))
    yield ["accuracy % (log-loss), tuning seed", *data]
    for method in sorted({key[3] for key, _ in found}):
        runs = [record for key, record in found if key[3] == method]
        losses = [run["metrics"][-1]["log_loss"] for run in runs]
        cells = [f"{percent(run):.1f} ({loss:.2f})" for run, loss in zip(runs, losses, strict=True)]
        yield [method, *cells]


def write_report(results: Results, seeds: int, workload: str, path: Path) -> None:
    """Markdown and figures beside the JSON file; the hand-written end of the former is kept."""
    table = Table(results, seeds)
    first = Table(results, 1)
    sections = {
        "": accuracy_rows(table),
        "Cost": cost_rows(table),
    }
    if first.measured("dirichlet", "vector as int8"):
        skewed = [name for name in first.methods("dirichlet") if ("dirichlet", name) not in ROWS]
        poisons = [name for name in skewed if "poisoned" in name]
        sections["Ablations: Dirichlet 0.5, seed 0"] = ablation_rows(
            first, "dirichlet", ["federated", *(name for name in skewed if name not in poisons)]
        )
        sections["One poisoned client of five: IID, seed 0"] = ablation_rows(
            first, "iid", ["federated", *(name for name in first.methods("iid") if "," in name)]
        )
        sections["The same: Dirichlet 0.5, seed 0"] = ablation_rows(
            first, "dirichlet", ["federated", *poisons]
        )
        sections["One label per client, seed 0, change from IID"] = ablation_rows(
            first, "one_label", first.methods("one_label"), base="iid"
        )
        sections["Two clients of five contradict the others, seed 0, change from IID"] = (
            ablation_rows(first, "contradictory", first.methods("contradictory"), base="iid")
        )
        sections["Learning rates tried"] = tuning_rows(results)
    draw_rounds(table, path.with_name(f"{path.stem}_rounds.png"))
    draw_bytes(table, path.with_name(f"{path.stem}_bytes.png"))
    target = path.with_suffix(".md")
    notes = target.read_text(encoding="utf-8").partition(NOTES)[2] if target.exists() else ""
    text = "\n\n".join(
        (f"## {title}\n\n" if title else "") + markdown(list(rows))
        for title, rows in sections.items()
    )
    figures = "".join(f"![]({path.stem}_{name}.png)\n" for name in ("rounds", "bytes"))
    target.write_text(f"{workload}\n\n{text}\n\n{figures}{NOTES}{notes}", encoding="utf-8")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def draw_rounds(table: Table, path: Path) -> None:
    """Accuracy by round, Dirichlet split: mean and range over seeds."""
    figure, panels = _panels(table)
    for data, axes in zip(table.data, panels, strict=True):
        for method in ("federated", "lora"):
            curves = _curves(table, data, method)
            steps = np.arange(curves.shape[1])
            axes.fill_between(
                steps, curves.min(axis=0), curves.max(axis=0), color=COLORS[method], alpha=0.15
            )
            axes.plot(steps, curves.mean(axis=0), "o-", color=COLORS[method], label=method)
        _levels(table, data, axes)
        axes.set(title=data, xlabel="round")
    _finish(figure, panels, path)


def draw_bytes(table: Table, path: Path) -> None:
    """Accuracy against what a client has sent and received by then, Dirichlet split."""
    figure, panels = _panels(table)
    for data, axes in zip(table.data, panels, strict=True):
        for method, first in (("federated", 0), ("lora", 1)):
            spent = table.runs(data, "dirichlet", method)[0]["spent"][first:]
            mean = _curves(table, data, method).mean(axis=0)[first:]
            axes.plot(
                [row["bytes"] for row in spent], mean, "o-", color=COLORS[method], label=method
            )
        _levels(table, data, axes)
        axes.set(title=data, xlabel="payload bytes of a client, up and down", xscale="log")
    _finish(figure, panels, path)


def _panels(table: Table) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4 * len(table.data), 3.4), layout="constrained")
    return figure, list(figure.subplots(1, len(table.data), squeeze=False)[0])


def _curves(table: Table, data: str, method: str) -> np.ndarray:
    runs = table.runs(data, "dirichlet", method)
    return np.array([[100 * row["accuracy"] for row in run["metrics"]] for run in runs])


def _levels(table: Table, data: str, axes: Axes) -> None:
    for method in ("centralised", "zero_shot"):
        level = fmean(table.accuracies(data, "pool", method))
        label = method.replace("_", "-")
        axes.axhline(level, color=COLORS[method], linestyle="--", linewidth=1, label=label)


def _finish(figure: Figure, panels: Sequence[Axes], path: Path) -> None:
    panels[0].set_ylabel("accuracy %, mean over seeds")
    panels[-1].legend(frameon=False, fontsize=8)
    FigureCanvasAgg(figure).print_figure(path, dpi=110)
