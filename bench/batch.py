"""Rows per second of `ifedicl classify`, as a fraction of the engine alone.

One compiled engine for both. Each round takes a parquet file through everything the command does
(reading, tokenising, scoring, parts, the output), and then gives the engine the same prompts,
tokenised beforehand, in one call of `LLM.encode`. Texts of 64 tokens, one task.

    python -m bench.batch [--model PATH] [--quick] [--json FILE]
"""

import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")

import pyarrow as pa
import pyarrow.parquet
from rich.console import Console
from rich.progress import track
from rich.table import Table

from api.batch.columns import columns_of
from api.batch.offline import BatchEngine
from api.batch.parts import Parts
from api.batch.run import Plan, classify_file
from api.batch.source import open_source
from api.vllm.offline import offline_engine
from bench.common.engines import SHAPE, random_model
from bench.common.random_tasks import random_task
from bench.common.report import options, report
from bench.serving import TOKENS, texts

CHUNK_ROWS = 1024
MAX_NUM_SEQS = "256"


def through_files(engine: BatchEngine, path: Path) -> float:
    """Rows per second of a parquet file classified to another."""
    (task,) = engine.tasks
    output = path.with_name("out.parquet")
    start = time.perf_counter()
    source = open_source(path, "text", output)
    plan = Plan(source, output, columns_of([task.spec], ""), CHUNK_ROWS, truncate=False)
    parts = Parts(path.with_name("parts"))
    parts.begin({})
    summary = classify_file(plan, parts, lambda: nullcontext(engine))
    return summary.rows / (time.perf_counter() - start)


def alone(engine: BatchEngine, prompts: list[list[int]]) -> float:
    """Rows per second of the same prompts in one call of the engine."""
    from vllm import PoolingParams

    first = engine.requests(engine.groups[0])[0]
    params = PoolingParams(task="classify", extra_kwargs=first.asked.extra_kwargs())
    start = time.perf_counter()
    engine.llm.reset_prefix_cache()
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    engine.llm.encode(inputs, params, pooling_task="classify", use_tqdm=False)
    return len(prompts) / (time.perf_counter() - start)


def measure(model: Path, scratch: Path, rows: int, rounds: int) -> dict[str, list[float]]:
    """Rows per second of both, one per round; a round before them warms."""
    artifact = random_task(model, scratch / "tasks" / "task", 0)
    drawn = texts(model, rows)
    path = scratch / "in.parquet"
    pyarrow.parquet.write_table(pa.table({"text": drawn}), path)
    flags = ["--max-model-len", "512", "--max-num-seqs", MAX_NUM_SEQS]
    with offline_engine(str(model), scratch / "tasks", flags) as llm:
        engine = BatchEngine(llm, [artifact], scratch / "tasks")
        prompts: Any = engine.prompts.encode_all(engine.tasks[0], drawn, False)
        measured: dict[str, list[float]] = {"classify": [], "engine": []}
        for number in track(range(rounds + 1), "rounds"):
            speeds = {"classify": through_files(engine, path), "engine": alone(engine, prompts)}
            if number:
                for name, speed in speeds.items():
                    measured[name].append(round(speed, 1))
    return measured


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="under 5 minutes")
    parser.add_argument("--model", type=Path, help="LLaMA checkpoint; random weights if absent")
    args = parser.parse_args()
    rows, rounds = (2048, 3) if args.quick else (4096, 7)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = args.model or random_model(scratch / "model")
        measured = measure(model, scratch, rows, rounds)
    ratio = median(
        ours / bare for ours, bare in zip(measured["classify"], measured["engine"], strict=True)
    )
    table = Table("", "rows/s, median", "of the engine")
    table.add_row("engine alone", f"{median(measured['engine']):.0f}", "1.00")
    table.add_row("ifedicl classify", f"{median(measured['classify']):.0f}", f"{ratio:.2f}")
    Console(width=100).print(table)
    record = {
        "headline": {"of the engine alone": round(ratio, 3)},
        "setting": {
            "model": args.model.name if args.model else SHAPE,
            "tokens": TOKENS,
            "rows": rows,
            "chunk_rows": CHUNK_ROWS,
            "max_num_seqs": int(MAX_NUM_SEQS),
        },
        "rows_per_second": measured,
    }
    report(args.json, record)


if __name__ == "__main__":
    main()
