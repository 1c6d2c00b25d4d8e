"""What `ifedicl serve` and `ifedicl classify` have in common when they start vLLM for tasks."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from huggingface_hub import constants

from api.options import ServeOptions
from ifedicl_serve.checkpoint.weights import weight_files
from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.contract.identity import architecture_of
from ifedicl_serve.errors import ModelError
from ifedicl_serve.plugin.config import TaskConfig

# vLLM flags that would serve something else than what --model names and tasks are checked against.
OTHER_MODEL_FLAGS = (
    "revision",
    "tokenizer",
    "tokenizer_revision",
    "quantization",
    "tokenizer_mode",
    "config_format",
    "hf_config_path",
    "hf_overrides",
    "weight_transfer_config",  # weights pushed into a running engine
)
# Values of --load-format that read the files that a model's identity is made of, or none.
LOAD_FORMATS = ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "dummy")
# vLLM flags that keep KV outside of the engine, where our salt may not reach: connectors look it
# up by tokens (ExampleConnector, LMCache) or by what a caller says (NIXL's `kv_transfer_params`).
OUTSIDE_KV_FLAGS = ("kv_transfer_config", "kv_offloading_size")
# vLLM flags that we set ourselves.
OWN_FLAGS = ("convert", "pooler_config", "additional_config")


def adapted_architecture(model: str) -> str:
    """Our class for a checkpoint's architecture. Raises ModelError if there is none, or if vLLM
    would load other weights than calibration does: now, before an engine is started."""
    architecture = architecture_of(model)
    weight_files(model)
    if architecture not in ADAPTED_ARCHITECTURES:
        raise ModelError(
            f"{model} is a {architecture}, tasks are served on "
            f"{', '.join(ADAPTED_ARCHITECTURES)}; choose a checkpoint of one of these"
        )
    return ADAPTED_ARCHITECTURES[architecture]


def download_dir(vllm_argv: Sequence[str]) -> str | None:
    """The folder that vLLM, with these flags, downloads a hub model's weights to; None where that
    is Hugging Face's cache: offline always, as `EngineArgs.__post_init__` then calls
    `get_model_path`, which takes the name for the folder in that cache."""
    if constants.HF_HUB_OFFLINE:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--download-dir", "--download_dir")  # vLLM takes either spelling
    return parser.parse_known_args(list(vllm_argv))[0].download_dir


def configure_engine(args: Any, runner: str, architecture: str, tasks: TaskConfig) -> None:
    """Set what makes vLLM's engine one for tasks in its parsed arguments."""
    from vllm.config import PoolerConfig

    args.runner = runner
    if runner == "pooling":
        args.pooler_config = PoolerConfig(task="classify")
    args.hf_overrides = {"architectures": [architecture]}
    args.additional_config = tasks


def configure_server(
    args: Any, api_keys: list[str] | None, middleware: Sequence[str], options: ServeOptions
) -> None:
    """Set what makes vLLM's API processes ours in its parsed arguments."""
    args.api_key = api_keys
    if args.root_path:
        args.root_path = "/" + args.root_path.strip("/")  # else it is the beginning of no path
    args.middleware = [*args.middleware, *middleware]
    args.ifedicl = options
    if args.runner == "generate" and args.max_num_queued_reqs is None:
        # Of vLLM's own routes; ours are bounded by `api.limits.admission`.
        args.max_num_queued_reqs = options.max_queued_requests


def refuse_other_front_ends(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a usage error if something else than vLLM's Python server would answer."""
    if args.grpc or args.grpc_port or os.environ.get("VLLM_USE_RUST_FRONTEND", "0") != "0":
        parser.error("gRPC and the Rust front end know no tasks and no keys; serve over HTTP")


def refuse_flags(
    parser: argparse.ArgumentParser, args: argparse.Namespace, defaults: argparse.Namespace
) -> None:
    """End with a usage error if a flag was given that tasks cannot be served with."""

    def given(flag: str) -> bool:
        return getattr(args, flag) != getattr(defaults, flag)

    for flag in filter(given, OTHER_MODEL_FLAGS):
        parser.error(
            f"--{flag.replace('_', '-')} would serve another model than the one tasks are checked "
            "against; give --model a local folder of what is to be served"
        )
    if args.load_format not in LOAD_FORMATS:
        parser.error(
            f"--load-format {args.load_format} could load other weights than tasks are checked "
            f"against (known not to: {', '.join(LOAD_FORMATS)}); leave it out"
        )
    for flag in filter(given, OUTSIDE_KV_FLAGS):
        parser.error(
            f"--{flag.replace('_', '-')} could give a task the KV of another: what keeps KV "
            "outside of the engine may look it up by tokens alone; leave it out"
        )
    for flag in filter(given, OWN_FLAGS):
        parser.error(f"--{flag.replace('_', '-')} is set by ifedicl; leave it out")
