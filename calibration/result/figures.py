"""The report's two figures, drawn with matplotlib and no display."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ifedicl_serve.contract.injection import BETA, LAMBDA, SITES

DOTS_PER_INCH = 110
SMOOTHING = 10  # steps in the running mean that is drawn over the raw losses


def draw_losses(
    losses: Sequence[Sequence[Sequence[float]]], clients: Sequence[int], path: Path
) -> None:
    """Losses [rounds][clients][steps] against the step, a line for each of the `clients`.

    A client may have missed rounds; there its line has a gap.
    """
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    steps = max(len(one) for one_round in losses for one in one_round)
    missed = [float("nan")] * steps
    for position, client in enumerate(clients):
        values = np.array([one_round[position] or missed for one_round in losses]).ravel()
        color = f"C{position % 10}"
        axes.plot(values, color=color, alpha=0.25, linewidth=0.8)
        window = min(SMOOTHING, len(values))
        mean = np.convolve(values, np.ones(window) / window, mode="valid")
        first = (window - 1) / 2
        axes.plot(np.arange(len(mean)) + first, mean, color=color, label=f"client {client}")
    for boundary in range(1, len(losses)):
        axes.axvline(boundary * steps, color="0.7", linewidth=0.8, linestyle=":")
    axes.set(xlabel="local step (dotted: FedAvg)", ylabel="loss", title="Loss while fitting")
    if len(clients) <= 10:
        axes.legend(frameon=False)
    _save(figure, path)


def draw_coefficients(coefficients: Tensor, path: Path) -> None:
    """Lambda and beta of coefficients [layers, 2, 2], layers down, sites across."""
    layers = len(coefficients)
    figure = Figure(figsize=(6.5, 1.5 + 0.32 * layers), layout="constrained")
    panels = zip(figure.subplots(1, 2), (LAMBDA, BETA), ("lambda", "beta"), (0.0, 1.0), strict=True)
    for axes, which, name, identity in panels:
        values = coefficients[..., which].numpy()
        reach = max(float(np.abs(values - identity).max()), 1e-6)
        image = axes.imshow(
            values, cmap="RdBu_r", vmin=identity - reach, vmax=identity + reach, aspect="auto"
        )
        axes.set(title=f"{name} (white: {identity:g}, no change)", ylabel="layer")
        axes.set_xticks(range(len(SITES)), SITES)
        axes.set_yticks(range(0, layers, max(1, layers // 16)))
        if layers <= 40:
            _write_values(axes, values, identity, reach)
        figure.colorbar(image, ax=axes)
    _save(figure, path)


def _write_values(axes, values: np.ndarray, identity: float, reach: float) -> None:  # type: ignore[no-untyped-def]
    for (layer, site), value in np.ndenumerate(values):
        dark = abs(value - identity) > 0.6 * reach
        color = "white" if dark else "black"
        axes.text(site, layer, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_figure(path, dpi=DOTS_PER_INCH)
