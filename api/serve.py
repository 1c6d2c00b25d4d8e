"""`ifedicl serve`: `vllm serve` with tasks.

Our own options are read here; everything else is vLLM's and goes to its parser unchanged, which
ends with a usage error for the few flags that tasks cannot be served with.
"""

import argparse
import os
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from api.admin_key import ADMIN_KEY_VARIABLE, configure, with_admin_key
from ifedicl_serve.errors import IFedICLError, ModelError
from ifedicl_serve.identity import ModelIdentity
from ifedicl_serve.plugin import ADAPTED_ARCHITECTURES
from ifedicl_serve.plugin.config import TaskConfig

PLUGINS = ("ifedicl", "ifedicl-api")
# Entry point groups that VLLM_PLUGINS filters once it is set; unset, vLLM loads all of them.
GATED_GROUPS = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)
# vLLM flags that would serve something else than what --model names and tasks are checked against.
OTHER_MODEL_FLAGS = (
    "revision",
    "tokenizer",
    "tokenizer_revision",
    "quantization",
    "hf_config_path",
)
# vLLM flags that ifedicl serve sets itself.
OWN_FLAGS = ("convert", "pooler_config", "additional_config")


def main(argv: list[str]) -> int:
    """Start vLLM's API server for the tasks of a folder; returns when it stops."""
    ours, vllm_argv = _parser().parse_known_args(argv)
    try:
        architecture = _adapted_architecture(ours.model)
        tasks = TaskConfig(_existing_folder(ours.tasks), ours.max_resident_tasks)
        configure(ours.admin_key)
    except IFedICLError as error:
        print(f"ifedicl serve: {error}", file=sys.stderr)
        return 1
    _enable_plugins()
    with tempfile.TemporaryDirectory(prefix="ifedicl-metrics-") as metrics:
        # Before prometheus_client is imported: workers' counters reach /metrics through files.
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", metrics)
        _run_vllm(["serve", ours.model, *vllm_argv], ours.runner, architecture, tasks)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ifedicl serve",
        allow_abbrev=False,  # `--task` is vLLM's to accept or refuse, not short for our `--tasks`
        description="Serve classification tasks over HTTP with vLLM.",
        epilog="Flags of `vllm serve` are accepted as well, e.g. --port, --api-key, "
        "--max-model-len, --tensor-parallel-size.",
    )
    parser.add_argument("--model", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--tasks", required=True, type=Path, help="folder of task artifacts")
    parser.add_argument(
        "--max-resident-tasks",
        type=int,
        help="tasks held in the engine's memory at once (default: --max-num-seqs)",
    )
    parser.add_argument(
        "--runner",
        choices=("pooling", "generate"),
        default="pooling",
        help="pooling: classify, fastest. generate: /v1/completions and /v1/chat/completions too, "
        "with a task's name as the model (default: pooling)",
    )
    parser.add_argument(
        "--admin-key",
        help="let who sends this key upload and delete tasks over HTTP (default: nobody; better "
        f"set {ADMIN_KEY_VARIABLE}, as a command line is visible to others)",
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


def _enable_plugins() -> None:
    """vLLM loads endpoint plugins only by name, and the same variable gates all other plugins:
    those that it would load without the variable are named too."""
    if "VLLM_PLUGINS" in os.environ:
        named = [name for name in os.environ["VLLM_PLUGINS"].split(",") if name]
    else:
        named = [entry.name for group in GATED_GROUPS for entry in entry_points(group=group)]
    os.environ["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*named, *PLUGINS]))


def _refuse_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a usage error if a flag was given that tasks cannot be served with."""
    serve = parser.parse_args(["serve", args.model])  # every flag at its default

    def given(flag: str) -> bool:
        return getattr(args, flag) != getattr(serve, flag)

    for flag in filter(given, OTHER_MODEL_FLAGS):
        parser.error(
            f"--{flag.replace('_', '-')} would serve another model than the one tasks are checked "
            "against; give --model a local folder of what is to be served"
        )
    for flag in filter(given, OWN_FLAGS):
        parser.error(f"--{flag.replace('_', '-')} is set by ifedicl serve; leave it out")


def _api_keys(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str] | None:
    """--api-key (or VLLM_API_KEY, as vLLM reads it) with the admin key, which opens /v1 too."""
    keys = args.api_key or [os.environ.get("VLLM_API_KEY")]
    try:
        return with_admin_key([key for key in keys if key]) or args.api_key
    except IFedICLError as error:
        parser.error(str(error))


def _run_vllm(argv: list[str], runner: str, architecture: str, tasks: TaskConfig) -> None:
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
    _refuse_flags(parser, args)
    args.api_key = _api_keys(parser, args)
    args.runner = runner
    if runner == "pooling":
        args.pooler_config = PoolerConfig(task="classify")
    args.hf_overrides = {**(args.hf_overrides or {}), "architectures": [architecture]}
    args.additional_config = tasks
    configure_logging_from_args(args)
    command.validate(args)
    command.cmd(args)
