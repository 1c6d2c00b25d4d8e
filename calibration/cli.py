"""`ifedicl calibrate`, `evaluate`, `inspect` and `export`: options and output, no computing.

torch and transformers are imported inside the commands, so that --help is quick.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from calibration.arguments import (
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
    Task,
    Template,
    TextColumn,
    VectorClip,
)
from calibration.settings import Settings
from calibration.tables import artifact_table, metrics_table
from ifedicl_serve.errors import DataError, IFedICLError


def calibrate(argv: Sequence[str]) -> int:
    """Fit a task from labelled examples."""
    return run_command("calibrate", _calibrate, argv)


def evaluate(argv: Sequence[str]) -> int:
    """Accuracy zero-shot, few-shot and adapted."""
    return run_command("evaluate", _evaluate, argv)


def inspect(argv: Sequence[str]) -> int:
    """Show what an artifact holds."""
    return run_command("inspect", _inspect, argv)


def export(argv: Sequence[str]) -> int:
    """Fold a task into a plain checkpoint."""
    return run_command("export", _export, argv)


def run_command(name: str, command: Callable[..., None], argv: Sequence[str]) -> int:
    """Parse `argv` for a subcommand and run it; errors of ours become one line and status 1."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app(args=list(argv), prog_name=f"ifedicl {name}")
    except SystemExit as stop:  # as typer ends help, usage errors and Ctrl-C
        return int(stop.code or 0)
    except IFedICLError as error:
        message = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True).print(f"[red]error: {escape(message)}[/]")
        return 1
    return 0


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
    held_out: Annotated[float, typer.Option(help="Fraction of rows to measure on.")] = 0.2,
    held_out_data: Annotated[
        Path | None, typer.Option(help="File of rows to measure on, instead of a fraction.")
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
    from calibration import commands
    from calibration.calibrate import calibrate as calibrate_job
    from calibration.options import parse_layers, parse_sites, unescape
    from calibration.progress import ConsoleProgress
    from calibration.report import write_report
    from calibration.state import StateStore
    from ifedicl_serve.artifact import refuse_occupied
    from ifedicl_serve.injection import SITES

    refuse_occupied(out)
    if not data:
        raise DataError("no data given; name labelled examples with --data or --client")
    console = Console()
    clients, rest = commands.read_clients(
        data, (text_column, label_column), held_out, held_out_data, seed
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
        outcome = calibrate_job(job, out, store, progress)
    finally:
        progress.done()
    path = write_report(outcome, progress.seconds, report or out / "report")
    _show_outcome(console, outcome, out, path)


def _show_outcome(console: Console, outcome: Any, out: Path, report: Path) -> None:
    if outcome.before:
        metrics = {"zero_shot": outcome.before, "adapted": outcome.after}
        console.print(metrics_table("held-out rows", metrics))
    console.print(f"task {out} (digest {outcome.artifact.digest[:16]}), report {report}")


def _evaluate(
    model: Model,
    task: Task,
    data: Annotated[Path, typer.Option(help="Labelled rows to classify.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Labelled rows for few-shot prompts and the mean label logit."),
    ] = None,
    shots: Annotated[int, typer.Option(help="Demonstrations in a few-shot prompt.")] = 8,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    dtype: Dtype = "fp32",
    device: Device = "auto",
    seed: Seed = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers here.")
    ] = None,
) -> None:
    """Accuracy, log-loss and macro-F1 without adaptation, with a few-shot prompt, and adapted."""
    from calibration import commands
    from calibration.data import check_labels, read_examples
    from calibration.evaluate import compare
    from ifedicl_serve.artifact import load_artifact
    from ifedicl_serve.identity import ModelIdentity

    artifact = load_artifact(task, ModelIdentity.of(model))
    names = [label.name for label in artifact.spec.labels]
    examples = read_examples(data, text_column, label_column)
    demonstrations = read_examples(train, text_column, label_column) if train else []
    check_labels(examples, names, str(data))
    check_labels(demonstrations, names, str(train))
    hooked = commands.open_model(model, dtype, device)
    metrics = compare(hooked, artifact, examples, demonstrations, shots, seed)
    Console().print(metrics_table(f"{artifact.spec.name}: {len(examples)} rows", metrics))
    if json_file:
        record = {"task": artifact.spec.name, "n": len(examples), "shots": shots}
        json_file.write_text(json.dumps(record | {"metrics": metrics}, indent=2) + "\n")


def _inspect(
    artifact: Annotated[Path, typer.Argument(help="Folder of a calibrated task.")],
) -> None:
    """Show what an artifact holds, after every check serving makes."""
    from ifedicl_serve.artifact import load_artifact

    Console().print(artifact_table(load_artifact(artifact)))


def _export(
    model: Model,
    task: Task,
    out: Annotated[Path, typer.Option(help="Folder for the new checkpoint.")],
    fused: Annotated[
        bool, typer.Option("--fused", help="Fold the task into the weights (the only kind).")
    ] = False,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16 weights.")] = "bf16",
) -> None:
    """Write a plain Hugging Face checkpoint with the task folded in; any engine runs it."""
    from calibration import commands
    from calibration.export import export_fused
    from ifedicl_serve.artifact import load_artifact
    from ifedicl_serve.identity import ModelIdentity

    if not fused:
        raise DataError("nothing to do without --fused, the only kind of export; add it")
    artifact = load_artifact(task, ModelIdentity.of(model))
    export_fused(commands.open_model(model, dtype, "cpu"), model, artifact, out)
    Console().print(f"wrote {out}: {model} with task {artifact.spec.name} folded in")
