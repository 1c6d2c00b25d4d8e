"""`ifedicl calibrate`: options and output, no computing.

torch and transformers are imported inside the command, so that --help is quick.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from calibration.command.arguments import (
    SEPARATOR,
    TEMPLATE,
    Aggregation,
    BatchSize,
    Delta,
    Demonstrations,
    Device,
    Dtype,
    Epsilon,
    GradientClip,
    LabelColumn,
    Layers,
    LearningRate,
    LocalSteps,
    Loss,
    Model,
    Name,
    Out,
    Rounds,
    Seed,
    Separator,
    Sites,
    Template,
    TextColumn,
    VectorClip,
)
from calibration.command.tables import metrics_table
from calibration.settings import Settings
from ifedicl_serve.command import run_command
from ifedicl_serve.errors import DataError


def calibrate(argv: Sequence[str]) -> int:
    """Fit a task from labelled examples."""
    return run_command("calibrate", _calibrate, argv)


def _calibrate(
    model: Model,
    out: Out,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", "--client", help="A client's labelled examples; repeat for more clients."
        ),
    ] = None,
    name: Name = None,
    template: Template = TEMPLATE,
    separator: Separator = SEPARATOR,
    labels: Annotated[
        str | None,
        typer.Option(help="name,name=words,... or @labels.json (default: those in the data)."),
    ] = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    layers: Layers = "all",
    sites: Sites = "attn,mlp",
    loss: Loss = Settings.loss,
    rounds: Rounds = Settings.rounds,
    local_steps: LocalSteps = Settings.local_steps,
    lr: LearningRate = Settings.learning_rate,
    batch_size: BatchSize = Settings.batch_size,
    demonstrations: Demonstrations = Settings.demonstrations,
    aggregation: Aggregation = Settings.aggregation,
    held_out: Annotated[
        float, typer.Option(help="Fraction of rows to measure on; with --epsilon none are.")
    ] = 0.2,
    held_out_data: Annotated[
        Path | None,
        typer.Option(
            help="File of rows to measure on, instead of a fraction. What is measured is published "
            "exactly, so with --epsilon the rows must be public."
        ),
    ] = None,
    epsilon: Epsilon = Settings.epsilon,
    delta: Delta = Settings.delta,
    vector_clip: VectorClip = Settings.vector_clip,
    gradient_clip: GradientClip = Settings.gradient_clip,
    dtype: Dtype = "fp32",
    device: Device = "auto",
    seed: Seed = 0,
    report: Annotated[
        Path | None, typer.Option(help="Folder for the report (default: OUT/report).")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder a killed run continues from (default: hidden, beside OUT)."),
    ] = None,
) -> None:
    """Fit a task from labelled examples of one or many clients."""
    from calibration.command import prepare as commands
    from calibration.command.console import ConsoleProgress
    from calibration.command.parse import parse_layers, parse_sites, unescape
    from calibration.result.report import write_report
    from calibration.run.local import calibrate_here
    from calibration.run.state import StateStore
    from ifedicl_serve.contract.artifact import refuse_occupied
    from ifedicl_serve.contract.injection import SITES

    refuse_occupied(out)
    if not data:
        raise DataError("no data given; name labelled examples with --data or --client")
    console = Console()
    fraction = 0.0 if epsilon else held_out  # metrics are exact, and would tell of the rows
    clients, rest = commands.read_clients(
        data, (text_column, label_column), fraction, held_out_data, seed
    )
    task = commands.define_task(
        name or out.name,
        unescape(template),
        unescape(separator),
        commands.task_labels(labels, clients, rest),
    )
    hooked = commands.open_model(model, dtype, device)
    settings = Settings(
        layers=parse_layers(layers, hooked.num_layers),
        sites=parse_sites(sites, SITES),  # type: ignore[arg-type]
        loss=loss,  # type: ignore[arg-type]
        rounds=rounds,
        local_steps=local_steps,
        learning_rate=lr,
        batch_size=batch_size,
        demonstrations=demonstrations,
        aggregation=aggregation,  # type: ignore[arg-type]
        seed=seed,
        epsilon=epsilon,
        delta=delta,
        vector_clip=vector_clip,
        gradient_clip=gradient_clip,
    )
    job = commands.prepare_job(hooked, model, task, clients, rest, settings)
    store = StateStore(state or out.parent / f".{out.name}.state", job.fingerprint())
    progress = ConsoleProgress(console, rounds, local_steps)
    try:
        outcome = calibrate_here(job, out, store, progress)
    finally:
        progress.done()
    path = write_report(outcome, progress.seconds, report or out / "report")
    _show_outcome(console, outcome, out, path)


def _show_outcome(console: Console, outcome: Any, out: Path, report: Path) -> None:
    if outcome.before:
        metrics = {"zero_shot": outcome.before, "adapted": outcome.after}
        console.print(metrics_table("held-out rows", metrics))
    elif outcome.artifact.spec.calibration.settings["epsilon"]:
        console.print(
            "nothing measured: metrics are exact, so with --epsilon only public rows are measured "
            "on; name a file of them with --held-out-data"
        )
    console.print(f"task {out} (digest {outcome.artifact.digest[:16]}), report {report}")
