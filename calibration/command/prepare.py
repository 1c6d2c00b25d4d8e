"""What the subcommands do, between the options people type and the pipeline's functions."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import typer
from pydantic import ValidationError

from calibration.command.arguments import (
    SEPARATOR,
    TEMPLATE,
    Columns,
    FitOptions,
    PrivacyOptions,
    PromptOptions,
)
from calibration.command.parse import parse_labels, parse_layers, parse_sites, unescape
from calibration.command.shared import shared
from calibration.data.examples import (
    Example,
    check_labels,
    found_labels,
    read_examples,
)
from calibration.data.rows import Rows
from calibration.ladder import rungs_of
from calibration.model.hooked import HookedModel
from calibration.model.lengths import fitting
from calibration.run.local import Job, task_spec
from calibration.settings import Settings
from calibration.stages.start import EMPTY, Shelf
from calibration.task import TaskDefinition
from ifedicl_serve.contract.chat import chat_prompt
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import SITES
from ifedicl_serve.contract.problem import first_problem
from ifedicl_serve.contract.prompt import PLACEHOLDER, PromptTemplate
from ifedicl_serve.contract.spec import Label
from ifedicl_serve.errors import PromptError


def define_task(
    prompt: PromptOptions, out: Path, labels: Sequence[tuple[str, str]], tokenizer: Any
) -> TaskDefinition:
    """What was typed, as a task for a model with this tokenizer. Raises PromptError."""
    try:
        written = _chat(prompt, tokenizer) if prompt.chat else _plain(prompt, tokenizer)
        if prompt.share_with:
            written = shared(prompt.share_with, prompt, written, tokenizer)
        return TaskDefinition(
            prompt.name or out.name,
            written,
            tuple(Label(name=label, verbalization=words) for label, words in labels),
        )
    except ValidationError as error:
        raise first_problem(error) from error


def _chat(prompt: PromptOptions, tokenizer: Any) -> PromptTemplate:
    if prompt.template is not None or prompt.separator is not None:
        raise PromptError(
            "--chat takes both from the model's chat template; leave --template and --separator "
            "out, and write what the user says with --user"
        )
    user = PLACEHOLDER if prompt.user is None else unescape(prompt.user)
    system = None if prompt.system is None else unescape(prompt.system)
    return chat_prompt(tokenizer, user, system)


def _plain(prompt: PromptOptions, tokenizer: Any) -> PromptTemplate:
    if prompt.user is not None or prompt.system is not None:
        raise PromptError("--system and --user are messages of a chat; add --chat")
    if prompt.template is None and not prompt.share_with and tokenizer.chat_template:
        typer.echo(
            f"prompts are plain ({TEMPLATE}), and this model has a chat template; --chat writes "
            "them in it",
            err=True,
        )
    template = TEMPLATE if prompt.template is None else prompt.template
    separator = SEPARATOR if prompt.separator is None else prompt.separator
    return PromptTemplate.of(unescape(template), unescape(separator))


class DataFile(NamedTuple):
    """A file of rows, in its order."""

    path: Path
    rows: Sequence[Example]

    def fitting(self, model: HookedModel, task: TaskDefinition, truncate: bool) -> list[Example]:
        """Its rows, none longer than the model reads. Raises DataError."""
        tokenizer, max_tokens = model.tokenizer, model.max_tokens
        return fitting(self.rows, self.path, task, tokenizer, max_tokens, truncate)


def read_files(paths: Sequence[Path], columns: Columns) -> list[DataFile]:
    """Labelled rows of each file. Raises DataError."""
    return [DataFile(path, read_examples(path, *columns.names)) for path in paths]


def leaves_open(fit: FitOptions) -> bool:
    """Whether there is something to choose by held-out rows, or to fit to them."""
    return [rung.readout for rung in rungs_of(fit.fit, fit.readout)] != ["none"]  # type: ignore[arg-type]


def task_labels(text: str | None, files: Sequence[DataFile]) -> list[tuple[str, str]]:
    """The labels asked for, or those of all rows; every row must have one."""
    labels = parse_labels(text, found_labels([row for file in files for row in file.rows]))
    for file in files:
        check_labels(file.rows, [name for name, _ in labels], str(file.path))
    return labels


def prepare_job(
    model: HookedModel,
    source: str,
    task: TaskDefinition,
    clients: Sequence[Rows],
    test: Sequence[Example],
    settings: Settings,
    start_from: Path | None,
) -> Job:
    """A job that has passed every check an artifact must pass, before any time is spent on it."""
    identity = ModelIdentity.of(source, tokenizer=model.tokenizer)
    shelf = Shelf.read(start_from, identity) if start_from else EMPTY
    job = Job(model, identity, task, clients, test, settings, shelf)
    task.trie(model.tokenizer)
    task.refuse_empty_tail(model.tokenizer, settings.extent)
    try:
        task_spec(job)
    except ValidationError as error:
        raise first_problem(error) from error
    return job


def settings_of(fit: FitOptions, privacy: PrivacyOptions, num_layers: int, seed: int) -> Settings:
    """What was typed, for a model of so many layers. Raises DataError."""
    typed = asdict(fit) | asdict(privacy)
    typed["learning_rate"] = typed.pop("lr")
    typed["channel_learning_rate"] = typed.pop("channel_lr")
    typed["layers"] = parse_layers(fit.layers, num_layers)
    typed["sites"] = parse_sites(fit.sites, SITES)
    return Settings(**typed, seed=seed)
