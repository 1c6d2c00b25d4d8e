"""Runs a subcommand of `ifedicl` that typer parses."""

from collections.abc import Callable, Sequence
from typing import Any

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
    app.command(context_settings=settings)(command)
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


def _failed(message: str) -> int:
    Console(stderr=True, soft_wrap=True).print(f"[red]error: {escape(message)}[/]")
    return 1
