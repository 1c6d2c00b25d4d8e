"""The `ifedicl` command: a table of subcommands, each imported only when called."""

import sys
from importlib import import_module
from typing import NamedTuple

from ifedicl_serve import __version__


class Command(NamedTuple):
    """Where a subcommand lives (``module:function(argv) -> exit status``) and what it does."""

    target: str
    summary: str


COMMANDS = {
    "calibrate": Command("calibration.cli:calibrate", "fit a task from labelled examples"),
    "federate": Command(
        "calibration.federation.cli:federate", "calibrate with clients that keep their data"
    ),
    "client": Command("calibration.federation.cli:client", "take part in a federation"),
    "partition": Command(
        "calibration.federation.cli:partition", "share a file out among simulated clients"
    ),
    "evaluate": Command("calibration.cli:evaluate", "accuracy zero-shot, few-shot and adapted"),
    "inspect": Command("calibration.cli:inspect", "show what an artifact holds"),
    "export": Command("calibration.cli:export", "fold a task into a plain checkpoint"),
    "serve": Command("api.serve:main", "serve tasks over HTTP with vLLM"),
}


def main() -> int:
    """Run the subcommand named in argv; print the table if there is none."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        print(f"ifedicl: no command {arguments[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    module, function = command.target.split(":")
    return getattr(import_module(module), function)(arguments[1:])


def usage() -> str:
    """The command table as help text."""
    lines = [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    return "usage: ifedicl COMMAND [options]\n\n" + "\n".join(lines) + "\n\nifedicl COMMAND --help"
