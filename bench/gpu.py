"""Requests per second of adapted classification on a GPU, on both of vLLM's model runners.

A model of Qwen2.5-7B's shape whose weights vLLM makes up (`load_format="dummy"`). Plain vLLM
(`generate(max_tokens=1, logprob_token_ids=labels)`, zero-shot) against 1 to 256 distinct tasks in
every batch, and against as many LoRA adapters. Every engine is compiled, has CUDA graphs and lives
in a process of its own; all are alive together and are measured in turn, on fresh random prompts.
A batch is measured for throughput, and single requests, one after the other, for latency; LoRA,
which takes several times as long, in two rounds. Needs about 130 GB of GPU memory.

    python -m bench.gpu [--rounds N] [--json FILE]
"""

import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.common.engines import EXAMPLES, LORA_RANK, Classify, Engines, Workload, random_workload
from bench.common.report import options, show_headline, write_record
from bench.throughput import SLOW, SLOW_ROUNDS, Seconds, ratio

# https://huggingface.co/Qwen/Qwen2.5-7B/blob/main/config.json
QWEN25_7B: dict[str, Any] = dict(
    architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_act="silu", hidden_size=3584,
    intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
    max_position_embeddings=131_072, rms_norm_eps=1e-06, rope_theta=1_000_000.0,
    tie_word_embeddings=False, use_sliding_window=False, vocab_size=152_064, dtype="bfloat16",
)  # fmt: skip
BATCH, LENGTHS, COUNTS = 256, (16, 64, 256), (1, 32, 256)
SINGLE, SINGLE_REQUESTS = "one of 64", 16
RUNNERS = {"V1": "0", "V2": "1"}  # values of VLLM_USE_V2_MODEL_RUNNER
# Five engines share the GPU, and nothing needs more: all requests of a step fit.
KV_CACHE_BYTES = 2 << 30
MEMORY_FRACTION = 0.15  # of the GPU, that must be free when an engine starts

# Of the engine in this process.
_variants: dict[str, Classify] = {}
_engines: list[Engines] = []


def write_model(folder: Path) -> Path:
    """A checkpoint without weights; prompts are token ids, so any tokenizer does."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN25_7B))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EXAMPLES / "tiny_qwen2" / name, folder)
    return folder


def start(workload: Workload, engine: str, runner: str) -> list[str]:
    """Start an engine in this process and return the names of what it can do."""
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = RUNNERS[runner]
    engines = Engines(
        workload,
        BATCH,
        load_format="dummy",
        kv_cache_memory_bytes=KV_CACHE_BYTES,
        gpu_memory_utilization=MEMORY_FRACTION,
    )
    _engines.append(engines)
    try:
        if engine == "plain":
            _variants["plain"] = engines.plain()
        else:
            many = engines.ours(COUNTS) if engine == "ours" else engines.multi_lora(COUNTS)
            _variants.update({f"{engine}_{count}": classify for count, classify in many.items()})
    except Exception as error:  # vLLM's do not all pass from one process to another
        raise RuntimeError(str(error)) from None
    return list(_variants)


def stop() -> None:
    """End the engine in this process."""
    for engines in _engines:
        engines.shut_down()


def seconds_of(variant: str, batches: list[list[list[int]]]) -> float:
    """How long the engine in this process takes for these batches of prompts."""
    prompts = [[{"prompt_token_ids": ids} for ids in batch] for batch in batches]
    begin = time.perf_counter()
    for batch in prompts:
        _variants[variant](batch)
    return time.perf_counter() - begin


def start_all(workload: Workload) -> dict[str, ProcessPoolExecutor]:
    """Every variant's process, by variant and runner. LoRA runs where it is vLLM's default."""
    engines = [("plain", "V1"), ("ours", "V1"), ("plain", "V2"), ("ours", "V2"), ("lora", "V2")]
    spawn = multiprocessing.get_context("spawn")
    processes = [ProcessPoolExecutor(1, spawn) for _ in engines]
    starting = [
        process.submit(start, workload, *engine)
        for process, engine in zip(processes, engines, strict=True)
    ]
    found = {}
    for process, (name, runner), started in zip(processes, engines, starting, strict=True):
        try:
            found.update({f"{variant} {runner}": process for variant in started.result()})
        except Exception as error:  # of any engine: the others' figures stand without it
            print(f"{name} on {runner} is left out, it does not start: {error}")
    return found


def measure(
    processes: dict[str, ProcessPoolExecutor], rounds: int
) -> Iterator[tuple[str, Seconds]]:
    """Seconds by variant, for prompts of each length (a batch of them) and single requests."""
    generator = np.random.default_rng(0)
    shapes = {f"{length} tokens": (1, BATCH, length) for length in LENGTHS}
    for setting, shape in {SINGLE: (SINGLE_REQUESTS, 1, 64), **shapes}.items():
        taken: Seconds = {name: [] for name in processes}
        for number in track(range(rounds + 1), setting):
            for name, process in processes.items():
                if name.startswith(SLOW) and number > SLOW_ROUNDS:
                    continue
                prompts = generator.integers(100, 5000, shape).tolist()
                took = process.submit(seconds_of, name.split(" ")[0], prompts).result()
                taken[name].append(took)
        yield setting, {name: values[1:] for name, values in taken.items()}  # 1st warms


def headline(seconds: dict[str, Seconds]) -> dict[str, float]:
    """Throughput of each variant over that of plain vLLM on the same runner, and over LoRA."""
    claims = {}
    for setting, taken in seconds.items():
        for name in taken:
            variant, runner = name.split(" ")
            rivals = [f"plain {runner}"] if variant != "plain" else []
            if variant.startswith("ours"):
                rivals.append(variant.replace("ours", "lora") + " V2")
            for rival in rivals:
                if rival in taken:
                    claims[f"{name} / {rival}, {setting}"] = ratio(taken, name, rival)
    return claims


def show(seconds: dict[str, Seconds]) -> None:
    """Median requests per second, and for single requests milliseconds."""
    table = Table("variant", title="requests/s (ratio to plain vLLM on the same runner)")
    for setting in seconds:
        table.add_column(setting, justify="right")
    for name in next(iter(seconds.values())):
        plain = f"plain {name.split(' ')[1]}"
        cells = []
        for setting, taken in seconds.items():
            middle = median(taken[name])
            value = (
                f"{1000 * middle / SINGLE_REQUESTS:.2f} ms"
                if setting == SINGLE
                else f"{BATCH / middle:,.0f}"
            )
            share = f" ({ratio(taken, name, plain):.2f})" if plain in taken else ""
            cells.append(value + share)
        table.add_row(name, *cells)
    Console(width=120).print(table)


def gpu() -> dict[str, str]:
    """The device and the versions that matter, without a CUDA context in this process."""
    import torch
    import triton
    import vllm
    from vllm.platforms import current_platform

    return {
        "gpu": current_platform.get_device_name(),
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def main() -> None:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = write_model(scratch / "model")
        workload = random_workload(model, scratch, max(COUNTS), adapters=max(COUNTS))
        begin = time.perf_counter()
        processes = start_all(workload)
        setting = {
            **gpu(),
            "model": QWEN25_7B,
            "batch": BATCH,
            "rounds": args.rounds,
            "lora_rank": LORA_RANK,
            "single_requests": SINGLE_REQUESTS,
            "seconds_to_start_all_engines": round(time.perf_counter() - begin),
        }
        seconds: dict[str, Seconds] = {}
        for name, taken in measure(processes, args.rounds):
            seconds[name] = taken
            show(seconds)
            record = {"headline": headline(seconds), "setting": setting, "seconds": seconds}
            if args.json:  # after each: none is lost if the next one fails
                write_record(args.json, record)
        for process in set(processes.values()):
            process.submit(stop).result()
            process.shutdown()
    show_headline(record["headline"])


if __name__ == "__main__":
    main()
