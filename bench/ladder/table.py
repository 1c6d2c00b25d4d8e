"""The tables and the headline of bench/accuracy.py and bench/federated_rungs.py, from what their
cells measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

Results = Mapping[str, Mapping[str, Any]]  # by "data set/group/seed"
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
SPENT = ("seconds", "bytes", "numbers")
CHEAP = ("zero-shot", "mean_removed", "bias")


def groups(results: Results) -> list[str]:
    """In the order of their first cells."""
    return list(dict.fromkeys(key.split("/")[1] for key in results))


def of_group(results: Results, group: str) -> dict[str, list[Mapping[str, Any]]]:
    """The cells of a table, by data set."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for key, cell in results.items():
        name, its_group, _ = key.split("/")
        if its_group == group:
            found.setdefault(name, []).append(cell)
    return found


def values(cells: Sequence[Mapping[str, Any]], method: str, metric: str) -> list[float]:
    """A metric over seeds."""
    return [cell["methods"][method][metric] for cell in cells if method in cell["methods"]]


def mean_over_sets(results: Results, group: str, method: str, metric: str) -> float:
    """Mean over data sets of the mean over seeds."""
    sets = of_group(results, group).values()
    return fmean(fmean(values(cells, method, metric)) for cells in sets)


def markdown(results: Results) -> str:
    """A table for every group."""
    return "\n\n".join(section for group in groups(results) for section in _section(results, group))


def headline(results: Results) -> dict[str, float]:
    """The aims' figures: in points of accuracy and in log-loss."""
    numbers = {}
    for group in groups(results):

        def gain(over: str, metric: str, group: str = group) -> float:
            ours = mean_over_sets(results, group, "auto", metric)
            return round(ours - mean_over_sets(results, group, over, metric), 4)

        numbers[f"auto_minus_lora_points_{group}"] = round(100 * gain("lora_8", "accuracy"), 2)
        numbers[f"auto_minus_lora_log_loss_{group}"] = gain("lora_8", "log_loss")
        numbers[f"auto_minus_lora_bias_log_loss_{group}"] = gain("lora_8+bias", "log_loss")
        numbers[f"auto_worst_below_cheap_{group}"] = worst_below_cheap(results, group)
        for spent in ("seconds", "bytes"):
            lora = mean_over_sets(results, group, "lora_8", spent)
            for ours in ("head", "auto"):
                ratio = lora / mean_over_sets(results, group, ours, spent)
                numbers[f"lora_{spent}_over_{ours}_{group}"] = round(ratio, 2)
    return numbers


def worst_below_cheap(results: Results, group: str) -> float:
    """Over data sets, the most points that auto is below the best of the cheap rivals."""
    below = []
    for cells in of_group(results, group).values():
        best = max(fmean(values(cells, method, "accuracy")) for method in CHEAP)
        below.append(100 * (best - fmean(values(cells, "auto", "accuracy"))))
    return round(max(below), 2)


def _section(results: Results, group: str) -> Iterator[str]:
    sets = of_group(results, group)
    seeds = ", ".join(f"{name} {len(cells)}" for name, cells in sets.items())
    yield f"## {f'{group} training rows' if group.isdigit() else group} (seeds: {seeds})"
    header = ["accuracy % ± sd (log-loss)", *sets, "mean", "ECE", *SPENT]
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
    for name in SPENT:
        known = [c["methods"][method][name] for c in every if name in c["methods"][method]]
        cells.append(f"{fmean(known):,.{0 if fmean(known) >= 10 else 1}f}" if known else "")
    return cells
