"""`report.md` and its figures: what a calibration did, for people.

Unlike the artifact it may hold times. It never shows a text of the training data.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from calibration.result.figures import draw_coefficients, draw_losses
from calibration.result.outcome import Outcome
from ifedicl_serve.contract.spec import TaskSpec

LOSS_FIGURE, COEFFICIENT_FIGURE = "loss.png", "coefficients.png"


def write_report(outcome: Outcome, seconds: dict[str, float], folder: Path) -> Path:
    """Write the report into `folder` and return the path of its Markdown file."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(outcome.state.losses[0]):
        draw_losses(outcome.state.losses, outcome.state.clients, folder / LOSS_FIGURE)
    draw_coefficients(outcome.artifact.coefficients, folder / COEFFICIENT_FIGURE)
    path = folder / "report.md"
    path.write_text(markdown(outcome, seconds), encoding="utf-8")
    return path


def markdown(outcome: Outcome, seconds: dict[str, float]) -> str:
    """The report's text."""
    spec = outcome.artifact.spec
    sections = [
        f"# Calibration of task `{spec.name}`",
        _summary(spec, outcome.artifact.digest),
        "## Warnings",
        "\n".join(f"- {warning}" for warning in outcome.warnings) or "None.",
        "## Held-out rows",
        _accuracy(outcome),
        "## Loss",
        _losses(outcome.state.losses, outcome.state.clients),
        "## Coefficients",
        f"![lambda and beta by layer and site]({COEFFICIENT_FIGURE})",
        "## Bytes on the wire",
        "Tensor values only, as each client sends and receives them.",
        _table(("stage", "bytes"), spec.calibration.wire_bytes.items()),
        *_measured_bytes(outcome.state.federation),
        "## Settings",
        _table(("setting", "value"), spec.calibration.settings.items()),
        "## Time and versions",
        _table(("stage", "seconds"), ((name, f"{value:.1f}") for name, value in seconds.items())),
        _table(("package", "version"), spec.calibration.versions.items()),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(spec: TaskSpec, digest: str) -> str:
    sizes = ", ".join(map(str, spec.calibration.client_sizes))
    template = spec.prompt.template.replace("\n", "\\n")
    labels = ", ".join(
        label.name
        if label.name == label.verbalization
        else f"{label.name} (read as “{label.verbalization}”)"
        for label in spec.labels
    )
    return "\n".join(
        [
            f"- base model: {spec.model.name} ({spec.model.architecture})",
            f"- artifact digest: `{digest}`",
            f"- clients: {len(spec.calibration.client_sizes)}, examples: {sizes}",
            f"- prompt: `{template}`",
            f"- labels: {labels}",
        ]
    )


def _accuracy(outcome: Outcome) -> str:
    if not outcome.before:
        return "None were held out, so nothing was measured."
    count = int(outcome.artifact.spec.calibration.metrics["held_out"])
    rows = (
        (name.replace("_", "-"), f"{outcome.before[name]:.4f}", f"{outcome.after[name]:.4f}")
        for name in outcome.before
    )
    return f"{count} rows no client fitted to.\n\n" + _table(("", "zero-shot", "adapted"), rows)


def _losses(losses: Sequence[Sequence[Sequence[float]]], clients: Sequence[int]) -> str:
    if not any(losses[0]):
        return "Withheld by the clients for privacy."
    header = ("round", *(f"client {client}" for client in clients))
    rows = (
        (str(number), *(f"{fmean(steps):.4f}" if steps else "-" for steps in one_round))
        for number, one_round in enumerate(losses, start=1)
    )
    figure = f"![loss of every step, by client]({LOSS_FIGURE})"
    return f"{figure}\n\nMean over the round's steps:\n\n" + _table(header, rows)


def _measured_bytes(federation: dict[str, Any]) -> list[str]:
    """What was really sent, if there was a wire. Client -1 has not introduced itself yet."""
    if not federation:
        return []
    header = ("client", "message", "way", "messages", "tensor bytes", "bytes in all")
    note = "Measured, with names, numbers and headers in `bytes in all`; gRPC and TLS come on top:"
    return [note, _table(header, federation["ledger"])]


def _table(header: Sequence[str], rows: object) -> str:
    lines = [header, ["---"] * len(header), *rows]  # type: ignore[misc]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)
