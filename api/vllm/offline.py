"""vLLM without a server, for the tasks of a folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.vllm.launch import adapted_architecture, configure_engine, refuse_flags
from api.vllm.plugins import enable_plugins
from api.vllm.quiet import quieten_log
from ifedicl_serve.plugin.config import TaskConfig


@contextmanager
def offline_engine(model: str, tasks: Path, vllm_argv: Sequence[str]) -> Iterator[Any]:
    """A vLLM `LLM` for the tasks of a folder, configured as `ifedicl serve` configures its own.

    In a process of its own, as vLLM has it (and preloads its CPU libraries there: twice as fast).
    Which requests share a batch is then a matter of timing, and with it, on some hardware, the
    last bits of scores; VLLM_ENABLE_V1_MULTIPROCESSING=0 makes it a matter of the requests alone.

    Ends with a usage error for flags that vLLM, or tasks, cannot be used with.
    """
    architecture = adapted_architecture(model)
    quieten_log()
    enable_plugins("ifedicl")
    from vllm import LLM, EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog="ifedicl classify"))
    args: Any = parser.parse_args(list(vllm_argv))
    refuse_flags(parser, args, parser.parse_args([]))
    args.model = model
    configure_engine(args, "pooling", architecture, TaskConfig(tasks))
    args.disable_log_stats = True
    llm = LLM.from_engine_args(EngineArgs.from_cli_args(args))
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
