"""What the subcommands do, between the options people type and the pipeline's functions."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from calibration.command.parse import first_problem, parse_labels
from calibration.data.examples import (
    Example,
    check_labels,
    found_labels,
    read_examples,
    split_held_out,
)
from calibration.model.hooked import HookedModel, load_model
from calibration.run.local import Job, task_spec
from calibration.settings import Settings
from calibration.task import TaskDefinition
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import Label

NARROW = 768  # hidden size up to which one thread computes


def open_model(name: str, dtype: str, device: str) -> HookedModel:
    """Load a model without transformers' own progress bar, and choose threads for its width.

    Every operation waits for its slowest thread. On narrow models an operation is shorter than
    a time slice, so next to other busy processes two threads are many times slower than one.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = load_model(name, dtype, device)
    if model.hidden_size <= NARROW:
        torch.set_num_threads(1)
    return model


def define_task(
    name: str, template: str, separator: str, labels: Sequence[tuple[str, str]]
) -> TaskDefinition:
    """A task from text. Raises PromptError."""
    try:
        return TaskDefinition(
            name,
            PromptTemplate(template=template, separator=separator),
            tuple(Label(name=label, verbalization=words) for label, words in labels),
        )
    except ValidationError as error:
        raise first_problem(error) from error


def read_clients(
    paths: Sequence[Path],
    columns: tuple[str, str],
    fraction: float,
    held_out: Path | None,
    seed: int,
) -> tuple[list[list[Example]], list[Example]]:
    """Each client's training examples, and the rows held out: a file, or part of every client."""
    files = [read_examples(path, *columns) for path in paths]
    if held_out is not None:
        return files, read_examples(held_out, *columns)
    splits = [split_held_out(examples, fraction, seed) for examples in files]
    return [train for train, _ in splits], [row for _, rest in splits for row in rest]


def task_labels(
    text: str | None, clients: Sequence[Sequence[Example]], held_out: Sequence[Example]
) -> list[tuple[str, str]]:
    """The labels asked for, or those of all rows; every row must have one."""
    rows = [row for some in (*clients, held_out) for row in some]
    labels = parse_labels(text, found_labels(rows))
    names = [name for name, _ in labels]
    for number, client in enumerate(clients):
        check_labels(client, names, f"client {number}")
    check_labels(held_out, names, "held-out rows")
    return labels


def prepare_job(
    model: HookedModel,
    source: str,
    task: TaskDefinition,
    clients: Sequence[Sequence[Example]],
    held_out: Sequence[Example],
    settings: Settings,
) -> Job:
    """A job that has passed every check an artifact must pass, before any time is spent on it."""
    job = Job(model, ModelIdentity.of(source), task, clients, held_out, settings)
    task.trie(model.tokenizer)
    try:
        task_spec(job)
    except ValidationError as error:
        raise first_problem(error) from error
    return job
