"""`ifedicl serve`: `vllm serve` with tasks.

Our two options are read here; everything else is vLLM's and goes to its parser unchanged.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ifedicl_serve.errors import IFedICLError, ModelError
from ifedicl_serve.identity import ModelIdentity
from ifedicl_serve.plugin import ADAPTED_ARCHITECTURES
from ifedicl_serve.plugin.config import TaskConfig

PLUGINS = ("ifedicl", "ifedicl-api")


def main(argv: list[str]) -> int:
    """Start vLLM's API server for the tasks of a folder; returns when it stops."""
    ours, vllm_argv = _parser().parse_known_args(argv)
    try:
        architecture = _adapted_architecture(ours.model)
        tasks = TaskConfig(_existing_folder(ours.tasks), _slots(ours.max_resident_tasks))
    except IFedICLError as error:
        print(f"ifedicl serve: {error}", file=sys.stderr)
        return 1
    _enable_plugins()
    _run_vllm(["serve", ours.model, *vllm_argv], architecture, tasks)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ifedicl serve",
        allow_abbrev=False,  # `--task` is vLLM's to accept or refuse, not short for our `--tasks`
        description="Serve classification tasks over HTTP with vLLM.",
        epilog="Every flag of `vllm serve` is accepted as well, e.g. --port, --api-key, "
        "--max-model-len, --tensor-parallel-size.",
    )
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--tasks", required=True, type=Path, help="folder of task artifacts")
    parser.add_argument(
        "--max-resident-tasks",
        type=int,
        help="tasks held in the engine's memory at once (default: --max-num-seqs)",
    )
    return parser


def _adapted_architecture(model: str) -> str:
    architecture = ModelIdentity.of(model).architecture
    if architecture not in ADAPTED_ARCHITECTURES:
        raise ModelError(
            f"{model} is a {architecture}, tasks are served on "
            f"{', '.join(ADAPTED_ARCHITECTURES)}; choose a checkpoint of one of these"
        )
    return ADAPTED_ARCHITECTURES[architecture]


def _existing_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise IFedICLError(f"--tasks {folder} is not a directory; calibrate a task into it first")
    return folder.resolve()


def _slots(max_resident_tasks: int | None) -> int | None:
    return None if max_resident_tasks is None else max_resident_tasks + 1


def _enable_plugins() -> None:
    """vLLM loads endpoint plugins only by name, and the same variable gates general plugins."""
    named = [name for name in os.environ.get("VLLM_PLUGINS", "").split(",") if name]
    os.environ["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*named, *PLUGINS]))


def _run_vllm(argv: list[str], architecture: str, tasks: TaskConfig) -> None:
    """What vLLM's `vllm serve` does, with the engine configured for tasks."""
    from vllm.config import PoolerConfig
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser = FlexibleArgumentParser(prog="ifedicl")
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers(dest="subparser"))
    args: Any = parser.parse_args(argv)
    if args.additional_config:
        parser.error("--additional-config is taken by ifedicl serve for its tasks")
    args.runner = "pooling"
    args.pooler_config = PoolerConfig(task="classify")
    args.hf_overrides = {**(args.hf_overrides or {}), "architectures": [architecture]}
    args.additional_config = tasks
    configure_logging_from_args(args)
    command.validate(args)
    command.cmd(args)
