"""`ifedicl classify`: options and output, no classifying.

torch and transformers are imported inside the command, so that --help is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ifedicl_serve.command import run_command

if TYPE_CHECKING:
    from api.batch.run import Summary

console = Console(stderr=True, soft_wrap=True)


def classify(argv: Sequence[str]) -> int:
    """Classify a file of texts."""
    # Flags that are not ours are vLLM's.
    return run_command(
        "classify", _classify, argv, allow_extra_args=True, ignore_unknown_options=True
    )


def _classify(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Checkpoint folder or hub name.")],
    task: Annotated[
        list[Path],
        typer.Option(help="Folder of a calibrated task; give it once more for each other one."),
    ],
    data: Annotated[Path, typer.Option("--input", help="A .parquet, .csv or .jsonl file.")],
    output: Annotated[Path, typer.Option(help="File to write, in the format of its suffix.")],
    text_column: Annotated[str, typer.Option(help="Column that holds the text.")] = "text",
    prefix: Annotated[str, typer.Option(help="Of the names of the added columns.")] = "",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Rows at a time, and what a killed run loses at most.")
    ] = 4096,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut texts that do not fit the context.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output if it is there.")
    ] = False,
) -> None:
    """Add a task's label and scores to every row of a file; of several tasks, in one pass, each
    with its name before its columns.

    Takes vLLM's engine flags as well, e.g. --dtype, --max-model-len, --tensor-parallel-size,
    --max-num-seqs. A run that was killed goes on when the same command is given again.
    """
    from api.batch.job import Options, open_job
    from api.batch.run import classify_file

    options = Options(
        model=model,
        tasks=task,
        data=data,
        output=output,
        text_column=text_column,
        prefix=prefix,
        batch_size=batch_size,
        truncate=truncate,
        overwrite=overwrite,
        vllm_flags=context.args,
    )
    with open_job(options) as job, _progress(job.plan.source.rows) as on_progress:
        summary = classify_file(job.plan, job.parts, job.scorer, on_progress)
    console.print(_told(summary, output), highlight=False, markup=False)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "starting the engine")


@contextmanager
def _progress(rows: int) -> Iterator[Callable[[float], None]]:
    columns = (
        TextColumn("classifying"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=rows)
        yield lambda done: progress.advance(bar, done)


def _told(summary: Summary, output: Path) -> str:
    earlier = summary.rows - summary.classified
    speed = summary.classified / summary.seconds if summary.seconds else 0.0
    return (
        f"{output}: {summary.rows:,} rows, {summary.errors:,} with an error"
        + (f", {earlier:,} of them classified earlier" if earlier else "")
        + f"; {summary.seconds:.1f} s, {speed:,.0f} rows/s"
    )
