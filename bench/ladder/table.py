"""The tables and the headline of bench/accuracy.py, from what its cells measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

Results = Mapping[str, Mapping[str, Any]]  # by "data set/rows/seed"
METHODS = {
    "zero-shot": "zero-shot",
    "mean_removed": "zero-shot, mean label logit removed",
    "few_shot_8": "8-shot prompt",
    "few_shot_16": "16-shot prompt",
    "bias": "bias",
    "head": "head",
    "coefficients": "coefficients (the paper)",
    "coefficients+bias": "coefficients + bias",
    "coefficients+head": "coefficients + head",
    "channels": "channels",
    "channels+bias": "channels + bias",
    "channels+head": "channels + head",
    "auto": "**auto**",
    "lora_8": "LoRA, rank 8",
    "lora_8+bias": "LoRA, rank 8, + bias",
    "lora_1": "LoRA, rank 1",
    "lora_1+bias": "LoRA, rank 1, + bias",
}
CHEAP = ("zero-shot", "mean_removed", "bias")


def of_size(results: Results, rows: int) -> dict[str, list[Mapping[str, Any]]]:
    """The cells with so many training rows, by data set."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for key, cell in results.items():
        name, count, _ = key.split("/")
        if int(count) == rows:
            found.setdefault(name, []).append(cell)
    return found


def values(cells: Sequence[Mapping[str, Any]], method: str, metric: str) -> list[float]:
    """A metric over seeds."""
    return [cell["methods"][method][metric] for cell in cells if method in cell["methods"]]


def mean_over_sets(results: Results, rows: int, method: str, metric: str) -> float:
    """Mean over data sets of the mean over seeds."""
    return fmean(fmean(values(cells, method, metric)) for cells in of_size(results, rows).values())


def markdown(results: Results) -> str:
    """A table for every number of training rows."""
    sizes = sorted({int(key.split("/")[1]) for key in results})
    return "\n\n".join(section for rows in sizes for section in _section(results, rows))


def headline(results: Results) -> dict[str, float]:
    """The aims' figures: in points of accuracy and in log-loss."""
    sizes = sorted({int(key.split("/")[1]) for key in results})
    numbers = {}
    for rows in sizes:

        def gain(over: str, metric: str, rows: int = rows) -> float:
            ours = mean_over_sets(results, rows, "auto", metric)
            return round(ours - mean_over_sets(results, rows, over, metric), 4)

        numbers[f"auto_minus_lora_points_{rows}"] = round(100 * gain("lora_8", "accuracy"), 2)
        numbers[f"auto_minus_lora_log_loss_{rows}"] = gain("lora_8", "log_loss")
        numbers[f"auto_minus_lora_bias_log_loss_{rows}"] = gain("lora_8+bias", "log_loss")
        numbers[f"auto_worst_below_cheap_{rows}"] = worst_below_cheap(results, rows)
    return numbers


def worst_below_cheap(results: Results, rows: int) -> float:
    """Over data sets, the most points that auto is below the best of the cheap rivals."""
    below = []
    for cells in of_size(results, rows).values():
        best = max(fmean(values(cells, method, "accuracy")) for method in CHEAP)
        below.append(100 * (best - fmean(values(cells, "auto", "accuracy"))))
    return round(max(below), 2)


def _section(results: Results, rows: int) -> Iterator[str]:
    sets = of_size(results, rows)
    seeds = ", ".join(f"{name} {len(cells)}" for name, cells in sets.items())
    yield f"## {rows} training rows (seeds: {seeds})"
    header = ["accuracy % ± sd (log-loss)", *sets, "mean", "ECE", "seconds", "numbers"]
    lines = [header, ["---"] * len(header)]
    ours_alone = next(iter(sets.values()))[0]["methods"]  # --extent tail measures no rival
    lines += [_row(sets, method) for method in METHODS if method in ours_alone]
    yield "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    chosen = {
        name: ", ".join(cell["methods"]["auto"]["rung"] for cell in cells)
        for name, cells in sets.items()
    }
    yield "Auto chose: " + "; ".join(f"{name}: {rungs}" for name, rungs in chosen.items()) + "."


def _row(sets: Mapping[str, Sequence[Mapping[str, Any]]], method: str) -> list[str]:
    cells, means = [METHODS[method]], []
    for measured in sets.values():
        accuracy, loss = (values(measured, method, name) for name in ("accuracy", "log_loss"))
        deviation = 100 * stdev(accuracy) if len(accuracy) > 1 else 0.0
        cells.append(f"{100 * fmean(accuracy):.1f} ± {deviation:.1f} ({fmean(loss):.3f})")
        means.append((fmean(accuracy), fmean(loss), fmean(values(measured, method, "ece"))))
    mean_accuracy, mean_loss, mean_error = (fmean(column) for column in zip(*means, strict=True))
    cells += [f"{100 * mean_accuracy:.1f} ({mean_loss:.3f})", f"{mean_error:.3f}"]
    every = [cell for measured in sets.values() for cell in measured]
    for name in ("seconds", "numbers"):
        known = [c["methods"][method][name] for c in every if name in c["methods"][method]]
        cells.append(f"{fmean(known):,.0f}" if known else "")
    return cells
