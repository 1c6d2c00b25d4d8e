"""Draw a run's loss curves: `python examples/plot_curves.py RUN/log.jsonl --out FILE.png`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {
    "label": "label: cross-entropy with the soft target",
    "vector": "vector: 1 - cosine with the teacher",
    "text": "text: cross-entropy of the next piece",
}


def smooth(values: list[float], share: float = 0.9) -> list[float]:
    """Exponential moving average."""
    found: list[float] = []
    for value in values:
        found.append(value if not found else share * found[-1] + (1 - share) * value)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.log.read_text().splitlines()][2:]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(12, 3.2))
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for kind in ("single", "episode", "plain"):
            pairs = [
                (r["tokens"] / 1e6, r[f"{name}_{kind}"]) for r in rows if f"{name}_{kind}" in r
            ]
            if pairs:
                tokens, losses = zip(*pairs, strict=True)
                axis.plot(tokens, smooth(list(losses)), label=kind, linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("million tokens", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
