"""The `ifedicl` command: a table of subcommands, each imported only when called."""

import sys
from importlib import import_module
from typing import NamedTuple

from ifedicl_serve import __version__


class Command(NamedTuple):
    """Where a subcommand lives (``module:function(argv) -> exit status``), what it does, and the
    extra of pyproject.toml that it needs."""

    target: str
    summary: str
    extra: str


COMMANDS = {
    "calibrate": Command(
        "calibration.command.calibrate:calibrate",
        "fit a task from labelled examples",
        "calibration",
    ),
    "federate": Command(
        "calibration.command.federate:federate",
        "calibrate with clients that keep their data",
        "federation",
    ),
    "client": Command(
        "calibration.command.federate:client", "take part in a federation", "federation"
    ),
    "partition": Command(
        "calibration.command.federate:partition",
        "share a file out among simulated clients",
        "calibration",
    ),
    "evaluate": Command(
        "calibration.command.evaluate:evaluate",
        "accuracy zero-shot, few-shot and adapted",
        "calibration",
    ),
    "inspect": Command(
        "calibration.command.artifacts:inspect", "show what an artifact holds", "contract"
    ),
    "sign": Command(
        "calibration.command.artifacts:sign", "sign artifacts with your key", "contract"
    ),
    "renew": Command(
        "calibration.command.artifacts:renew",
        "tell a task's model as this release does",
        "contract",
    ),
    "export": Command(
        "calibration.command.artifacts:export", "fold a task into a plain checkpoint", "calibration"
    ),
    "classify": Command("api.batch.command:classify", "classify a file of texts, offline", "vllm"),
    "serve": Command("api.serve:main", "serve tasks over HTTP with vLLM", "vllm"),
}

# The modules that an extra brings and our code imports.
CONTRACT = {
    *("torch", "transformers", "huggingface_hub", "tokenizers", "safetensors", "cryptography"),
    *("numpy", "typer", "rich"),
}
CALIBRATION = CONTRACT | {"accelerate", "jinja2", "pyarrow", "matplotlib", "sklearn"}
SERVE = CONTRACT | {"watchfiles", "prometheus_client", "python_multipart", "pyarrow"}
EXTRAS = {
    "contract": CONTRACT,
    "calibration": CALIBRATION,
    "federation": CALIBRATION | {"flwr"},
    "vllm": SERVE | {"vllm", "fastapi", "starlette", "uvicorn", "httptools"},
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
    try:
        return getattr(import_module(module), function)(arguments[1:])
    except ModuleNotFoundError as error:
        # The command's own extra if it brings the module: `--aggregation` needs another's.
        names = [name for name in (command.extra, *EXTRAS) if error.name in EXTRAS[name]]
        if not names:
            raise
        print(
            f"ifedicl {arguments[0]}: {error.name} is not installed; pip install "
            f"'ifedicl-serve[{names[0]}]'",
            file=sys.stderr,
        )
        return 1


def usage() -> str:
    """The command table as help text."""
    lines = [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    return "usage: ifedicl COMMAND [options]\n\n" + "\n".join(lines) + "\n\nifedicl COMMAND --help"
