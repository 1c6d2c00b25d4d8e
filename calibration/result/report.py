"""`report.md` and its figures: what a calibration did, for people.

Unlike the artifact it may hold times. It never shows a text of the training data.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from calibration.result.figures import draw_coefficients, draw_losses
from calibration.result.outcome import Outcome
from calibration.result.record import FLOAT32_BYTES
from calibration.settings import SiteFit
from calibration.state import State
from ifedicl_serve.contract.spec import TaskSpec
from ifedicl_serve.fitting.judge import Measured

COEFFICIENT_FIGURE = "coefficients.png"


def write_report(outcome: Outcome, seconds: dict[str, float], folder: Path) -> Path:
    """Write the report into `folder` and return the path of its Markdown file."""
    folder.mkdir(parents=True, exist_ok=True)
    state = outcome.done.state
    for fit, losses in state.losses.items():
        if any(losses[0]):
            draw_losses(losses, state.clients, folder / loss_figure(fit))
    if "coefficients" in state.values:
        draw_coefficients(state.best("coefficients"), folder / COEFFICIENT_FIGURE)
    path = folder / "report.md"
    path.write_text(markdown(outcome, seconds), encoding="utf-8")
    return path


def markdown(outcome: Outcome, seconds: dict[str, float]) -> str:
    """The report's text."""
    spec, done = outcome.artifact.spec, outcome.done
    sections = [
        f"# Calibration of task `{spec.name}`",
        _summary(spec, outcome.artifact.digest),
        "## Warnings",
        "\n".join(f"- {warning}" for warning in outcome.warnings) or "None.",
        "## Held-out rows",
        _accuracy(done.measured),
        "## Rungs",
        _rungs(spec),
        *_fits(done.state),
        "## Bytes on the wire",
        "Tensor values only, as each client sends and receives them.",
        _table(("stage", "bytes"), spec.calibration.wire_bytes.items()),
        *_measured_bytes(done.state.federation),
        "## Settings",
        _table(("setting", "value"), spec.calibration.settings.items()),
        "## Time and versions",
        _table(("stage", "seconds"), ((name, f"{value:.1f}") for name, value in seconds.items())),
        _table(("package", "version"), spec.calibration.versions.items()),
    ]
    return "\n\n".join(sections) + "\n"


def loss_figure(fit: SiteFit) -> str:
    """The file of a fit's losses."""
    return f"loss-{fit}.png"


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
            f"- rung: {spec.rung}, adapting "
            + ("nothing" if spec.fit == "none" else f"{spec.extent} tokens"),
            f"- clients: {len(spec.calibration.client_sizes)}, examples: {sizes}",
            f"- prompt: `{template}`",
            f"- labels: {labels}",
        ]
    )


def _accuracy(measured: Measured) -> str:
    if not measured.rows:
        return "None were held out, so nothing was measured."
    rows = (
        (name.replace("_", "-"), f"{value:.4f}", f"{measured.after[name]:.4f}")
        for name, value in measured.before.items()
    )
    said = f"{measured.rows} rows, each classified by what was fitted to others."
    return f"{said}\n\n" + _table(("", "zero-shot", "adapted"), rows)


def _rungs(spec: TaskSpec) -> str:
    """All that were tried, the simplest first, with what they cost."""
    rungs = spec.calibration.rungs
    if not rungs:
        return f"`{spec.rung}`, without rows to judge it by."
    rows = (
        (
            f"**{rung.name}**" if rung.name == spec.rung else rung.name,
            rung.numbers,
            f"{FLOAT32_BYTES * rung.numbers:,}",
            f"{rung.log_loss:.4f}",
            f"{rung.excess:+.4f} ± {rung.standard_error:.4f}",
            f"{rung.accuracy:.4f}",
        )
        for rung in rungs
    )
    header = ("rung", "numbers", "bytes", "log-loss", "above the best", "accuracy")
    note = (
        "The task has the one in bold. Of rungs that do the same at the sites it is the one of the "
        "lowest log-loss; of those, the simplest within one standard error of the best. How long "
        "each stage took stands below."
    )
    return f"{note}\n\n" + _table(header, rows)


def _fits(state: State) -> list[str]:
    """What was fitted at the sites, whether or not the task has it."""
    sections = []
    for fit, losses in state.losses.items():
        sections += [f"## Loss: {fit}", _losses(fit, losses, state.clients)]
    if state.starts:
        sections += ["## Where it began", _starts(state)]
    if state.held_out:
        told = ((number, f"{loss:.4f}") for number, loss in enumerate(state.held_out, start=1))
        sections += ["On held-out rows, after each round; the lowest is kept:"]
        sections += [_table(("round", "loss"), told)]
    if "coefficients" in state.values:
        sections += [
            "## Coefficients",
            f"![lambda and beta by layer and site]({COEFFICIENT_FIGURE})",
        ]
    return sections


def _starts(state: State) -> str:
    """The nearest task of the shelf, and whether it was the better start."""
    header = ("fit", "nearest task", "cosine", "held-out loss there", "and afresh", "began there")
    rows = ((fit, *told.values()) for fit, told in state.starts.items())
    return _table(header, rows)


def _losses(
    fit: SiteFit, losses: Sequence[Sequence[Sequence[float]]], clients: Sequence[int]
) -> str:
    if not any(losses[0]):
        return "Withheld by the clients for privacy."
    header = ("round", *(f"client {client}" for client in clients))
    rows = (
        (str(number), *(f"{fmean(steps):.4f}" if steps else "-" for steps in one_round))
        for number, one_round in enumerate(losses, start=1)
    )
    figure = f"![loss of every step, by client]({loss_figure(fit)})"
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
