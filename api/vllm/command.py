"""`vllm serve` with room between its parser and its server."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Of vLLM's parser, the flags that were given, and all of them at their defaults.
Configure = Callable[[ArgumentParser, Namespace, Namespace], None]


def vllm_serve(argv: Sequence[str], defaults: Mapping[str, object], configure: Configure) -> None:
    """Imitate the `main` of vLLM's command line for `vllm serve`; returns when the server stops.

    `argv` begins with the command and the model, `defaults` are other defaults of its flags, and
    `configure` may change the flags that were given, or end with a usage error.

    Upstream: `main` has workers started by spawn (`cli_env_setup`), builds the parsers of all its
    commands, configures the log, and lets the command check its arguments and run
    (vllm/entrypoints/cli/main.py).
    Why: the engine's configuration is set, and flags are refused, after parsing and before the
    check. `main` reads `sys.argv` and has no place for it.
    Delete when a plugin of vLLM's may change the engine's arguments.
    """
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # All that `cli_env_setup` does, which is in another module since 0.33.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    parser = FlexibleArgumentParser(prog="ifedicl")
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers(dest="subparser")).set_defaults(**defaults)
    args: Any = parser.parse_args(argv)
    configure(parser, args, parser.parse_args(["serve", args.model]))
    configure_logging_from_args(args)
    command.validate(args)
    command.cmd(args)
