"""A file classified, as one path. Knows no command line, no file format and no vLLM."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from api.batch.columns import ResultColumns, rows_with_errors, with_results
from api.batch.parts import Parts
from api.batch.source import Source
from api.classify.encoder import Encoded, PromptEncoder
from ifedicl_serve.contract.text import why_unusable
from ifedicl_serve.errors import TextTooLongError
from ifedicl_serve.files.table_writers import writer_of
from ifedicl_serve.tasks.task import Task

T = TypeVar("T")
OnProgress = Callable[[float], None]
Floats = npt.NDArray[np.float32]
Scores = tuple[
    Floats, Floats | None
]  # [prompts, choices], and those of label rows [prompts, labels]
RowPrompts = list[list[int] | str]  # a task's prompt, or why it has none, [tasks]


class Scorer(Protocol):
    """An engine that is up, with its tasks."""

    tasks: list[Task]
    prompts: PromptEncoder

    def scores(self, prompts: list[RowPrompts], on_progress: OnProgress) -> list[Scores]:
        """What `Task.read_out` takes, of each task's prompts."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is to be classified, and how."""

    source: Source
    output: Path
    columns: list[ResultColumns]  # of each task
    chunk_rows: int
    truncate: bool

    @property
    def schema(self) -> pa.Schema:
        """Of the output."""
        return with_results(self.source.carried.schema, self.columns)


@dataclass(frozen=True)
class Prepared:
    """A chunk of rows and their prompts."""

    rows: pa.Table
    prompts: list[RowPrompts]


@dataclass(frozen=True)
class Summary:
    """What was done: rows in all, rows with an error, and this run's own rows and seconds."""

    rows: int
    errors: int
    classified: int
    seconds: float


def classify_file(
    plan: Plan,
    parts: Parts,
    scorer: Callable[[], AbstractContextManager[Scorer]],
    on_progress: OnProgress = lambda rows: None,
) -> Summary:
    """Classify what `parts` has not yet, then write the output and remove the parts.

    An engine is started only if there is something to classify. Raises TaskUnavailableError if
    it lost the task; what was finished stays.
    """
    begin = parts.finished()
    chunks = plan.source.count(plan.chunk_rows)
    on_progress(min(begin * plan.chunk_rows, plan.source.rows))
    seconds = 0.0
    if begin < chunks:
        with scorer() as engine:
            started = time.perf_counter()
            _classify_chunks(plan, parts, begin, engine, on_progress)
            seconds = time.perf_counter() - started
    errors = _merge(plan, parts, chunks)
    parts.remove()
    classified = max(plan.source.rows - begin * plan.chunk_rows, 0)
    return Summary(plan.source.rows, errors, classified, seconds)


def _classify_chunks(
    plan: Plan, parts: Parts, begin: int, engine: Scorer, on_progress: OnProgress
) -> None:
    """The engine has its next chunk ready when it is done with one, and waits for no disk."""
    chunks = plan.source.chunks(plan.chunk_rows, skip=begin)
    prepared = _ahead(_prepare(plan, engine, rows) for rows in chunks)
    with ThreadPoolExecutor(max_workers=1) as writer:
        written = writer.submit(lambda: None)
        for number, chunk in enumerate(prepared, start=begin):
            scores = engine.scores(chunk.prompts, on_progress)
            table = _with_results(plan, engine, chunk, scores)
            written.result()
            written = writer.submit(parts.write, number, table)
        written.result()


def _prepare(plan: Plan, engine: Scorer, rows: pa.Table) -> Prepared:
    texts = plan.source.carried.texts(rows)
    problems = [_problem(text) for text in texts]
    good = [text for text, problem in zip(texts, problems, strict=True) if text and not problem]
    encoded = iter(engine.prompts.encode_for(engine.tasks, good, plan.truncate))
    prompts: list[RowPrompts] = [
        [problem] * len(engine.tasks) if problem else list(map(_ids_or_why, next(encoded)))
        for problem in problems
    ]
    return Prepared(rows, prompts)


def _ids_or_why(prompt: Encoded) -> list[int] | str:
    return str(prompt) if isinstance(prompt, TextTooLongError) else prompt


def _with_results(plan: Plan, engine: Scorer, chunk: Prepared, scores: list[Scores]) -> pa.Table:
    table = chunk.rows
    prompts = zip(*chunk.prompts, strict=True)
    for task, columns, of_task, of_rows in zip(
        engine.tasks, plan.columns, scores, prompts, strict=True
    ):
        errors = [prompt if isinstance(prompt, str) else None for prompt in of_rows]
        table = columns.add(table, errors, task.read_out(*of_task))
    return table


def _problem(text: str | None) -> str | None:
    """Why a text cannot be classified, whatever the model."""
    problem = "is null, expected something to classify" if text is None else why_unusable(text)
    return problem and f"the text {problem}"


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before is in use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item


def _merge(plan: Plan, parts: Parts, chunks: int) -> int:
    """Write the output from its parts; returns how many rows have an error."""
    errors = 0
    with parts.output(plan.output) as staged:
        with writer_of(plan.output)(staged, plan.schema) as writer:
            for number in range(chunks):
                table = parts.read(number)
                errors += rows_with_errors(table, plan.columns)
                writer.write_table(table)
    return errors
