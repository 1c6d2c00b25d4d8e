"""Runs a subcommand of `ifedicl` that typer parses."""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape

from ifedicl_serve.errors import IFedICLError


def run_command(
    name: str, command: Callable[..., None], argv: Sequence[str], **settings: Any
) -> int:
    """Parse `argv` for a subcommand and run it; errors of ours and of the file
    system become one line and status 1.

    `settings` are click's context settings.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings=settings)(option_groups(command))
    try:
        app(args=list(argv), prog_name=f"ifedicl {name}")
    except SystemExit as stop:  # as typer ends help, usage errors and Ctrl-C
        return int(stop.code or 0)
    except IFedICLError as error:
        return _failed(" ".join(str(error).split()))
    except OSError as error:  # a full disk, a folder that may not be written to
        return _failed(
            f"{error.strerror or error} ({error.filename or 'while writing'}); once that is "
            "mended, run the same command again"
        )
    return 0


def option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as typer reads it: a parameter whose type is a dataclass stands for the options
    that are its fields, declared once for several commands and handed over together."""
    types = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in types.items() if is_dataclass(kind)}
    parameters = []
    for name, parameter in signature(command).parameters.items():
        if name in groups:
            parameters += _options_of(groups[name])
        else:
            parameters.append(
                parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=types[name])
            )

    @wraps(command)
    def grouped(**typed: Any) -> None:
        for name, kind in groups.items():
            typed[name] = kind(**{field.name: typed.pop(field.name) for field in fields(kind)})
        command(**typed)

    grouped.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    grouped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del grouped.__wrapped__
    return grouped


def _options_of(group: Any) -> list[Parameter]:
    types = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
        )
        for field in fields(group)
    ]


def _failed(message: str) -> int:
    Console(stderr=True, soft_wrap=True).print(f"[red]error: {escape(message)}[/]")
    return 1
