"""Requests per second of adapted classification against plain vLLM, in one run.

Plain: `generate(max_tokens=1, logprob_token_ids=labels)`, zero-shot, and with 16 demonstrations
before each text and prefix caching on. Ours: 1, 16 and 64 distinct tasks in every batch. All
engines are compiled and alive together; every round measures each of them once, in turn, on
fresh random prompts, and ratios are medians over rounds of same-round ratios.

    python -m bench.throughput [--model PATH] [--quick] [--json FILE]
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoConfig

from bench.random_tasks import random_task
from ifedicl_serve.plugin import ADAPTED_ARCHITECTURES
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.plugin.request import TaskRequest

EMBEDDED_MODEL = Path(__file__).parents[1] / "examples" / "base_model"
LENGTHS = (16, 64, 256)
TASK_COUNTS = (1, 16, 64)
DEMONSTRATIONS = 16
LABEL_TOKENS = (300, 301, 302, 303)
MAX_MODEL_LEN = 8192  # 16 demonstrations of 256 tokens and the text
# An engine's processes poll for a second after their last message (vLLM's SpinCondition), on
# cores that the engine measured next needs: wait until they sleep.
SETTLE_SECONDS = 1.5

Prompts = list[dict[str, list[int]]]
Variant = Callable[[Prompts], Any]


class Engines:
    """Plain vLLM and ours on the same checkpoint, alive together in their own processes."""

    def __init__(self, model: Path, tasks: Path, batch: int) -> None:
        from vllm import LLM
        from vllm.config import PoolerConfig

        common: dict[str, Any] = dict(
            model=str(model),
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=batch,
            enable_prefix_caching=True,
        )
        # Positions beyond the checkpoint's own cost the same and mean nothing here.
        longer = {"max_position_embeddings": MAX_MODEL_LEN}
        architecture = AutoConfig.from_pretrained(model).architectures[0]
        self.plain = LLM(hf_overrides=longer, **common)
        self.ours = LLM(
            runner="pooling",
            pooler_config=PoolerConfig(task="classify"),
            hf_overrides={**longer, "architectures": [ADAPTED_ARCHITECTURES[architecture]]},
            additional_config=TaskConfig(tasks),
            **common,
        )

    def generate(self, prompts: Prompts) -> Any:
        """Plain vLLM's way to score labels: one token, with the labels' log-probabilities."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, logprob_token_ids=list(LABEL_TOKENS))
        return self.plain.generate(prompts, params, use_tqdm=False)

    def classify(self, digests: list[str]) -> Variant:
        """Ours, with the prompts dealt to the tasks in turn."""
        from vllm import PoolingParams

        def run(prompts: Prompts) -> Any:
            params = [
                PoolingParams(
                    task="classify",
                    extra_kwargs=TaskRequest(
                        digests[index % len(digests)], LABEL_TOKENS
                    ).extra_kwargs(),
                )
                for index in range(len(prompts))
            ]
            return self.ours.encode(prompts, params, pooling_task="classify", use_tqdm=False)

        return run


def measure(engines: Engines, digests: list[str], batch: int, rounds: int) -> dict[str, Any]:
    """Seconds per batch by prompt length and variant, one value per round."""
    generator = np.random.default_rng(0)

    def prompts(length: int, prefix: list[int]) -> Prompts:
        texts = generator.integers(100, 5000, (batch, length)).tolist()
        return [{"prompt_token_ids": prefix + text} for text in texts]

    seconds: dict[str, dict[str, list[float]]] = {}
    for length in LENGTHS:
        demonstrations = generator.integers(100, 5000, DEMONSTRATIONS * length).tolist()
        variants: dict[str, tuple[Variant, list[int]]] = {
            "zero_shot": (engines.generate, []),
            **{f"ours_{n}": (engines.classify(digests[:n]), []) for n in TASK_COUNTS},
            "few_shot": (engines.generate, demonstrations),
        }
        taken: dict[str, list[float]] = {name: [] for name in variants}
        for _ in track(range(rounds + 1), f"prompts of {length} tokens"):
            for name, (variant, prefix) in variants.items():
                inputs = prompts(length, prefix)
                time.sleep(SETTLE_SECONDS)
                start = time.perf_counter()
                variant(inputs)
                taken[name].append(time.perf_counter() - start)
        seconds[str(length)] = {name: values[1:] for name, values in taken.items()}  # 1st warms
    return seconds


def ratio(seconds: dict[str, list[float]], ours: str, other: str) -> float:
    """How many times `other`'s throughput `ours` has: median of same-round ratios."""
    pairs = zip(seconds[other], seconds[ours], strict=True)
    return round(median(theirs / mine for theirs, mine in pairs), 3)


def headline(seconds: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """The ratios that the project claims, by prompt length."""
    claims = {}
    for length, taken in seconds.items():
        claims[f"64_tasks_vs_zero_shot_{length}"] = ratio(taken, "ours_64", "zero_shot")
        claims[f"64_tasks_vs_few_shot_{length}"] = ratio(taken, "ours_64", "few_shot")
        claims[f"64_tasks_vs_1_task_{length}"] = ratio(taken, "ours_64", "ours_1")
    return claims


def show(seconds: dict[str, dict[str, list[float]]], batch: int) -> None:
    """Median requests per second of every variant."""
    table = Table(title=f"requests/s, batches of {batch} (ratio to zero-shot)")
    table.add_column("prompt tokens")
    for name in next(iter(seconds.values())):
        table.add_column(name, justify="right")
    for length, taken in seconds.items():
        cells = [
            f"{batch / median(values):,.0f} ({ratio(taken, name, 'zero_shot'):.2f})"
            for name, values in taken.items()
        ]
        table.add_row(length, *cells)
    Console(width=120).print(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under 5 minutes")
    parser.add_argument("--json", type=Path, help="write settings, seconds and headline here")
    args = parser.parse_args()
    batch, rounds = (64, 3) if args.quick else (256, 7)
    with tempfile.TemporaryDirectory() as folder:
        tasks = Path(folder)
        digests = [
            random_task(args.model, tasks / f"task{seed}", seed).digest
            for seed in range(max(TASK_COUNTS))
        ]
        seconds = measure(Engines(args.model, tasks, batch), digests, batch, rounds)
    show(seconds, batch)
    claims = headline(seconds)
    if args.json:
        setting = {
            "model": args.model.name,
            "batch": batch,
            "rounds": rounds,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
        }
        result = {"headline": claims, "setting": setting, "seconds": seconds}
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    print("headline: " + ", ".join(f"{name} {value}" for name, value in claims.items()))


if __name__ == "__main__":
    main()
