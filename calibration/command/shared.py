"""A prompt that begins as another task's do, so that a server reads a text once for both."""

from pathlib import Path
from typing import Any

import typer

from calibration.command.arguments import FitOptions, PromptOptions
from calibration.ladder import rungs_of
from ifedicl_serve.checkpoint.tokenizer import tokenizer_digest
from ifedicl_serve.contract.artifact import read_spec
from ifedicl_serve.contract.prompt import PLACEHOLDER, PromptTemplate
from ifedicl_serve.errors import DataError, PromptError


def shared(
    task: Path, typed: PromptOptions, written: PromptTemplate, tokenizer: Any
) -> PromptTemplate:
    """What was typed, and `written` out, with the head of `task`. Raises PromptError if it says
    another one, or if the task is another model's."""
    spec, _ = read_spec(task)
    theirs = spec.prompt
    if spec.model.tokenizer_digest != tokenizer_digest(tokenizer):
        raise PromptError(
            f"{task}: calibrated with another tokenizer, so no text would be shared with it; name "
            "a task of this model"
        )
    if spec.adapts_text:
        typer.echo(
            f"{task} adapts a text's own tokens, so it shares none until it is calibrated with "
            "--extent tail",
            err=True,
        )
    if written.head == theirs.head:
        return written
    if (theirs.turns is None) == typed.chat:
        kind, option = ("plain", "leave --chat out") if typed.chat else ("a chat's", "add --chat")
        raise PromptError(f"--share-with {task}: its prompts are {kind}; {option}")
    if not _left_open(typed):
        raise PromptError(
            f"--share-with {task} begins prompts with {theirs.head!r}, what was typed with "
            f"{written.head!r}; begin --template or --user with {PLACEHOLDER}, and leave --system "
            "out"
        )
    return written.begun_as(theirs)


def refuse_unshared(typed: PromptOptions, fit: FitOptions) -> None:
    """Raise DataError if the text that is to be shared may be adapted."""
    adapting = any(rung.fit != "none" for rung in rungs_of(fit.fit, fit.readout))  # type: ignore[arg-type]
    if typed.share_with and fit.extent == "all" and adapting:
        raise DataError(
            "--share-with is for reading a text once, and --extent all may adapt its own tokens; "
            "add --extent tail, or --fit bias or head"
        )


def _left_open(typed: PromptOptions) -> bool:
    """Whether nothing was typed of what stands before a text."""
    message = typed.user if typed.chat else typed.template
    return typed.system is None and (message is None or message.startswith(PLACEHOLDER))
