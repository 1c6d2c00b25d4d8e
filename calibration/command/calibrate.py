"""`ifedicl calibrate`: options and output, no computing.

torch and transformers are imported inside the command, so that --help is quick.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from calibration.command.arguments import (
    Columns,
    FitOptions,
    MachineOptions,
    Model,
    Out,
    PrivacyOptions,
    PromptOptions,
    Seed,
    StartFrom,
    Truncate,
)
from calibration.command.tables import metrics_table, rungs_table
from ifedicl_serve.command import run_command
from ifedicl_serve.errors import DataError

if TYPE_CHECKING:
    from calibration.result.outcome import Outcome
    from calibration.run.local import Job


def calibrate(argv: Sequence[str]) -> int:
    """Fit a task from labelled examples."""
    return run_command("calibrate", _calibrate, argv)


def _calibrate(
    *,
    model: Model,
    out: Out,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", "--client", help="A client's labelled examples; repeat for more clients."
        ),
    ] = None,
    prompt: PromptOptions,
    labels: Annotated[
        str | None,
        typer.Option(help="name,name=words,... or @labels.json (default: those in the data)."),
    ] = None,
    columns: Columns,
    fit: FitOptions,
    held_out: Annotated[
        float,
        typer.Option(
            help="Fraction of rows by which rungs are chosen and judged; with --epsilon none are."
        ),
    ] = 0.2,
    held_out_data: Annotated[
        Path | None,
        typer.Option(
            help="File of rows to measure on, and nothing else. What is measured is published "
            "exactly, so with --epsilon the rows must be public."
        ),
    ] = None,
    truncate: Truncate = False,
    start_from: StartFrom = None,
    privacy: PrivacyOptions,
    machine: MachineOptions,
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
    from calibration.command import prepare
    from calibration.command.shared import refuse_unshared
    from calibration.data.examples import split_held_out
    from calibration.data.rows import Rows
    from calibration.model.load import open_model
    from ifedicl_serve.checkpoint.tokenizer import load_tokenizer
    from ifedicl_serve.contract.artifact import refuse_occupied

    refuse_occupied(out)
    refuse_unshared(prompt, fit)
    if not data:
        raise DataError("no data given; name labelled examples with --data or --client")
    # Metrics are exact, and would tell of the rows.
    fraction = 0.0 if privacy.epsilon else held_out
    if held_out_data and not prepare.leaves_open(fit):
        fraction = 0.0  # nothing is to be chosen, so no rows are needed to choose by
    files = prepare.read_files(data, columns)
    tests = prepare.read_files([held_out_data] if held_out_data else [], columns)
    named = prepare.task_labels(labels, files + tests)
    tokenizer = load_tokenizer(model)
    task = prepare.define_task(prompt, out, named, tokenizer)
    hooked = open_model(model, machine.machine, typer.echo, tokenizer)
    owned = [file.fitting(hooked, task, truncate) for file in files]
    test = [row for file in tests for row in file.fitting(hooked, task, truncate)]
    clients = [Rows(*split_held_out(rows, fraction, seed)) for rows in owned]
    settings = prepare.settings_of(fit, privacy, hooked.num_layers, seed)
    job = prepare.prepare_job(hooked, model, task, clients, test, settings, start_from)
    _run(job, out, state or out.parent / f".{out.name}.state", report or out / "report")


def _run(job: "Job", out: Path, state: Path, report: Path) -> None:
    from calibration.command.console import ConsoleProgress
    from calibration.result.report import write_report
    from calibration.run.local import calibrate_here
    from calibration.state import StateStore

    console = Console()
    progress = ConsoleProgress(console, job.settings.rounds, job.settings.local_steps)
    try:
        outcome = calibrate_here(job, out, StateStore(state, job.fingerprint()), progress)
    finally:
        progress.done()
    _show_outcome(console, outcome, out, write_report(outcome, progress.seconds, report))


def _show_outcome(console: Console, outcome: "Outcome", out: Path, report: Path) -> None:
    measured, spec = outcome.done.measured, outcome.artifact.spec
    if spec.calibration.rungs:
        console.print(rungs_table(spec))
    if measured.rows:
        metrics = {"zero_shot": measured.before, "adapted": measured.after}
        console.print(metrics_table(f"{measured.rows} held-out rows", metrics))
    elif spec.calibration.settings["epsilon"]:
        console.print(
            "nothing measured: metrics are exact, so with --epsilon only public rows are measured "
            "on; name a file of them with --held-out-data"
        )
    console.print(f"task {out} (digest {outcome.artifact.digest[:16]}), report {report}")
