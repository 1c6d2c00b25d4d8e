"""`ifedicl evaluate`: options and output, no computing.

torch and transformers are imported inside the command, so that --help is quick.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from calibration.command.arguments import (
    Columns,
    MachineOptions,
    Model,
    Seed,
    Task,
    Truncate,
)
from calibration.command.tables import metrics_table
from ifedicl_serve.command import run_command


def evaluate(argv: Sequence[str]) -> int:
    """Accuracy zero-shot, few-shot and adapted."""
    return run_command("evaluate", _evaluate, argv)


def _evaluate(
    *,
    model: Model,
    task: Task,
    data: Annotated[Path, typer.Option(help="Labelled rows to classify.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Labelled rows for few-shot prompts and the mean label logit."),
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations in a few-shot prompt.")] = 8,
    columns: Columns,
    truncate: Truncate = False,
    machine: MachineOptions,
    seed: Seed = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers here.")
    ] = None,
) -> None:
    """Accuracy, log-loss and macro-F1 without adaptation, with a few-shot prompt, and adapted."""
    from calibration.command.prepare import read_files
    from calibration.data.examples import check_labels
    from calibration.model.load import open_model
    from calibration.stages.evaluate import compare
    from calibration.task import TaskDefinition
    from ifedicl_serve.checkpoint.tokenizer import load_tokenizer
    from ifedicl_serve.contract.artifact import load_artifact
    from ifedicl_serve.contract.identity import ModelIdentity

    tokenizer = load_tokenizer(model)
    artifact = load_artifact(task, ModelIdentity.of(model, tokenizer=tokenizer))
    definition = TaskDefinition.of(artifact.spec)
    files = read_files([data, train] if train else [data], columns)
    for file in files:
        check_labels(file.rows, definition.names, str(file.path))
    hooked = open_model(model, machine.machine, tokenizer=tokenizer)
    examples, *demonstrations = [file.fitting(hooked, definition, truncate) for file in files]
    metrics = compare(hooked, artifact, examples, sum(demonstrations, []), shots, seed)
    Console().print(metrics_table(f"{artifact.spec.name}: {len(examples)} rows", metrics))
    if json_file:
        record = {"task": artifact.spec.name, "n": len(examples), "shots": shots}
        json_file.write_text(json.dumps(record | {"metrics": metrics}, indent=2) + "\n")
