"""`ifedicl serve`: `vllm serve` with tasks.

Our own options are read here; everything else is vLLM's and goes to its parser unchanged, which
ends with a usage error for the few flags that tasks cannot be served with.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from api.access.admin_key import ADMIN_KEY_VARIABLE, configure, with_admin_key
from api.access.keys import KEY_FILE_VARIABLE, configured_keys, vllm_keys
from api.options import ServeOptions
from api.vllm.command import vllm_serve
from api.vllm.counters import counting_in_files
from api.vllm.launch import (
    adapted_architecture,
    configure_engine,
    configure_server,
    refuse_flags,
    refuse_other_front_ends,
)
from api.vllm.plugins import enable_plugins
from ifedicl_serve.contract.signing import TrustedKeys
from ifedicl_serve.errors import IFedICLError
from ifedicl_serve.plugin.config import TaskConfig

PLUGINS = ("ifedicl", "ifedicl-api")
# vLLM flags with another default here: requests in flight are finished when the server is told to
# stop, and our own log line, which has the request's id and task, replaces uvicorn's.
DEFAULTS = {"shutdown_timeout": 30, "disable_uvicorn_access_log": True}
# Outermost last.
MIDDLEWARE = (
    "api.limits.body.LimitBody",
    "api.access.guard.Access",
    "api.observe.middleware.Observe",
)


def main(argv: list[str]) -> int:
    """Start vLLM's API server for the tasks of a folder; returns when it stops, 1 if the engine
    died."""
    ours, vllm_argv = _parser().parse_known_args(argv)
    try:
        architecture = adapted_architecture(ours.model)
        trusted = ours.trusted_keys and TrustedKeys.read(ours.trusted_keys)
        tasks = TaskConfig(_existing_folder(ours.tasks), ours.max_resident_tasks, trusted)
        options = ServeOptions(
            ours.max_queued_requests,
            ours.request_timeout,
            ours.max_request_bytes,
            configured_keys(ours.key_file),
        )
        configure(ours.admin_key)
    except IFedICLError as error:
        print(f"ifedicl serve: {error}", file=sys.stderr)
        return 1
    enable_plugins(*PLUGINS)
    with counting_in_files():
        return _run_vllm(
            ["serve", ours.model, *vllm_argv], ours.runner, architecture, tasks, options
        )


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
        "--trusted-keys",
        type=Path,
        metavar="FILE.pem",
        help="serve only tasks signed (`ifedicl sign`) with one of these public Ed25519 keys "
        "(default: signatures are not looked at)",
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
    parser.add_argument(
        "--key-file",
        type=Path,
        help="JSON file of API keys and the tasks each may use, beside --api-key, whose keys may "
        f"use all (default: {KEY_FILE_VARIABLE})",
    )
    limits = ServeOptions()
    parser.add_argument(
        "--max-queued-requests",
        type=_positive(int),
        default=limits.max_queued_requests,
        help="engine requests (a text is one for each node of its task's label trie) that an API "
        "process has in flight; more are answered 503 with Retry-After (default: %(default)s)",
    )
    parser.add_argument(
        "--request-timeout",
        type=_positive(float),
        default=limits.request_timeout,
        metavar="SECONDS",
        help="for a request's body to arrive, then for its answer; a request's own timeout may be "
        "shorter (default: %(default)g)",
    )
    parser.add_argument(
        "--max-request-bytes",
        type=_positive(int),
        default=limits.max_request_bytes,
        help="largest request body (default: %(default)s)",
    )
    return parser


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def _existing_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise IFedICLError(f"--tasks {folder} is not a directory; calibrate a task into it first")
    return folder.resolve()


def _api_keys(
    parser: argparse.ArgumentParser, args: argparse.Namespace, options: ServeOptions
) -> list[str] | None:
    """--api-key (or VLLM_API_KEY, as vLLM reads it), the keys of --key-file, and the admin key,
    which opens /v1 too."""
    try:
        keys = vllm_keys(args.api_key)
        if options.keys.keys() & keys:
            raise IFedICLError(
                "a key is in --key-file and also an --api-key, which may use every task; take it "
                "out of one of them"
            )
        return with_admin_key([*keys, *options.keys]) or args.api_key
    except IFedICLError as error:
        parser.error(str(error))


def _run_vllm(
    argv: list[str], runner: str, architecture: str, tasks: TaskConfig, options: ServeOptions
) -> int:
    """`vllm serve` with the engine configured for tasks. 1 if the engine died, so that a supervisor
    starts the server again."""

    def configure(
        parser: argparse.ArgumentParser, args: argparse.Namespace, defaults: argparse.Namespace
    ) -> None:
        refuse_other_front_ends(parser, args)
        refuse_flags(parser, args, defaults)
        configure_engine(args, runner, architecture, tasks)
        configure_server(args, _api_keys(parser, args, options), MIDDLEWARE, options)

    vllm_serve(argv, DEFAULTS, configure)
    from api.vllm import drain  # counts for Prometheus: not before its variable is set

    return 1 if drain.engine_died else 0
