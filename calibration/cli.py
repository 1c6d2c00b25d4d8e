"""`ifedicl calibrate`, `evaluate`, `inspect`, `sign`, `export`: options and output, no computing.

torch and transformers are imported inside the commands, so that --help is quick.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
from ifedicl_serve.command import run_command
from ifedicl_serve.errors import DataError


def calibrate(argv: Sequence[str]) -> int:
    """Fit a task from labelled examples."""
    return run_command("calibrate", _calibrate, argv)


def evaluate(argv: Sequence[str]) -> int:
    """Accuracy zero-shot, few-shot and adapted."""
    return run_command("evaluate", _evaluate, argv)


def inspect(argv: Sequence[str]) -> int:
    """Show what an artifact holds."""
    return run_command("inspect", _inspect, argv)


def sign(argv: Sequence[str]) -> int:
    """Sign artifacts, for servers that ask for it."""
    return run_command("sign", _sign, argv)


def export(argv: Sequence[str]) -> int:
    """Fold a task into a plain checkpoint."""
    return run_command("export", _export, argv)


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
        outcome = calibrate_job(job, out, store, progress)
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


def _evaluate(
    model: Model,
    task: Task,
    data: Annotated[Path, typer.Option(help="Labelled rows to classify.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Labelled rows for few-shot prompts and the mean label logit."),
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations in a few-shot prompt.")] = 8,
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
    trusted_keys: Annotated[
        Path | None,
        typer.Option(help="PEM file of public keys, of which one must have signed the task."),
    ] = None,
) -> None:
    """Show what an artifact holds, after every check serving makes."""
    from ifedicl_serve.artifact import load_artifact
    from ifedicl_serve.signing import TrustedKeys, fingerprint, read_signature

    loaded = load_artifact(artifact)
    signature = "none"
    if trusted_keys:
        signer = TrustedKeys.read(trusted_keys).signer_of(artifact, loaded.digest)
        signature = f"by trusted key {fingerprint(signer)}"
    elif read_signature(artifact):
        signature = "not checked; give --trusted-keys"
    Console().print(artifact_table(loaded, signature))


def _sign(
    tasks: Annotated[list[Path], typer.Argument(help="Folders of calibrated tasks.")],
    key: Annotated[
        Path,
        typer.Option(
            help="PEM file of an Ed25519 private key (openssl genpkey -algorithm ed25519); "
            "servers are given its public key (openssl pkey -pubout) as --trusted-keys."
        ),
    ],
) -> None:
    """Sign artifacts with your key, so that a server with --trusted-keys serves them.

    All are checked before the first is signed. Calibrating a task again removes its signature.
    """
    from ifedicl_serve.artifact import load_artifact
    from ifedicl_serve.signing import fingerprint, public_bytes, read_signing_key, write_signature

    private_key = read_signing_key(key)
    digests = {task: load_artifact(task).digest for task in tasks}
    for task, digest in digests.items():
        write_signature(task, digest, private_key)
        name = fingerprint(public_bytes(private_key.public_key()))
        Console().print(f"signed {task} (digest {digest[:16]}) with key {name}")


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
