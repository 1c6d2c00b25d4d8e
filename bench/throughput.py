"""Requests per second of adapted classification against its rivals on vLLM, in one run.

Rivals, all on vLLM as it comes: `generate(max_tokens=1, logprob_token_ids=labels)` zero-shot and
with demonstrations before each text (prefix caching on), `classify` with one fixed head, and
multi-LoRA. Ours: 1 to 256 distinct tasks in every batch, of coefficients, and as many full ones:
scale and shift per channel, and label rows. Every round measures each of them once, in turn, on
fresh random prompts; ratios are medians over rounds of same-round ratios. Rivals that take many
times as long are left out after two rounds.

    python -m bench.throughput [--model PATH] [--quick] [--json FILE]
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.common.engines import SHAPE, Classify, Engines, Prompts, random_model, random_workload
from bench.common.report import options, report

LENGTHS = (16, 64, 256)
TASKS, ADAPTERS, DEMONSTRATIONS = (1, 16, 64, 256), (1, 64), (12, 24)
QUICK_TASKS = (1, 64)
# An engine's processes poll for a second after their last message (vLLM's SpinCondition), on
# cores that the engine measured next needs: wait until they sleep.
SETTLE_SECONDS = 1.5
SLOW, SLOW_ROUNDS, SLOW_WARM_UP = ("few_shot", "lora"), 2, 32

Seconds = dict[str, list[float]]  # by variant, one value per round


def variants(engines: Engines, quick: bool) -> dict[str, tuple[Classify, int]]:
    """By name: how a batch is classified, and how many demonstrations stand before each text."""
    plain = engines.plain()
    ours = engines.ours(QUICK_TASKS if quick else TASKS)
    found = {
        "zero_shot": (plain, 0),
        **{f"ours_{count}": (classify, 0) for count, classify in ours.items()},
        f"full_{len(engines.workload.full)}": (engines.full(), 0),
    }
    if quick:
        return found
    lora = engines.multi_lora(ADAPTERS)
    return {
        **found,
        "fixed_head": (engines.fixed_head(), 0),
        **{f"few_shot_{count}": (plain, count) for count in DEMONSTRATIONS},
        **{f"lora_{count}": (classify, 0) for count, classify in lora.items()},
    }


def measure(named: dict[str, tuple[Classify, int]], batch: int, rounds: int) -> dict[str, Seconds]:
    """Seconds per batch by prompt length and variant."""
    generator = np.random.default_rng(0)

    def tokens(*shape: int) -> Any:
        return generator.integers(100, 5000, shape).tolist()

    seconds: dict[str, Seconds] = {}
    for length in LENGTHS:
        prefix = {name: tokens(shots * length) for name, (_, shots) in named.items()}
        taken: Seconds = {name: [] for name in named}
        for number in track(range(rounds + 1), f"prompts of {length} tokens"):
            for name, (classify, _) in named.items():
                slow = name.startswith(SLOW)
                if slow and number > SLOW_ROUNDS:
                    continue
                texts = tokens(SLOW_WARM_UP if slow and number == 0 else batch, length)
                prompts: Prompts = [{"prompt_token_ids": prefix[name] + text} for text in texts]
                time.sleep(SETTLE_SECONDS)
                start = time.perf_counter()
                classify(prompts)
                taken[name].append(time.perf_counter() - start)
        seconds[str(length)] = {name: values[1:] for name, values in taken.items()}  # 1st warms
    return seconds


def ratio(seconds: Seconds, one: str, other: str) -> float:
    """How many times `other`'s throughput `one` has: median of same-round ratios."""
    pairs = zip(seconds[other], seconds[one], strict=False)  # slow ones have fewer rounds
    return round(median(theirs / mine for theirs, mine in pairs), 3)


def headline(seconds: dict[str, Seconds]) -> dict[str, float]:
    """The ratios that the project claims, by prompt length: most tasks against each rival, and as
    many full ones against them."""
    claims = {}
    for length, taken in seconds.items():
        most = max((name for name in taken if name.startswith("ours")), key=_count)
        same = {"lora_64": "ours_64"}  # as many tasks as adapters
        for name in taken:
            if name.startswith(("zero", "fixed", "few")) or name in ("ours_1", "lora_64"):
                ours = same.get(name, most)
                claims[f"{ours}_vs_{name}_{length}"] = ratio(taken, ours, name)
            elif name.startswith("full"):
                claims[f"{name}_vs_{most}_{length}"] = ratio(taken, name, most)
    return claims


def _count(variant: str) -> int:
    return int(variant.rpartition("_")[2])


def show(seconds: dict[str, Seconds], batch: int) -> None:
    """Median requests per second of every variant."""
    table = Table(title=f"requests/s, batches of {batch} (ratio to zero-shot)")
    table.add_column("variant")
    for length in seconds:
        table.add_column(f"{length} tokens", justify="right")
    for name in next(iter(seconds.values())):
        cells = [
            f"{batch / median(taken[name]):,.0f} ({ratio(taken, name, 'zero_shot'):.2f})"
            for taken in seconds.values()
        ]
        table.add_row(name, *cells)
    Console(width=120).print(table)


def plot(seconds: dict[str, Seconds], batch: int, path: Path) -> None:
    """Requests per second against the number of distinct tasks or adapters in a batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(seconds), 3.4), layout="constrained")
    for axes, (length, taken) in zip(
        figure.subplots(1, len(seconds)), seconds.items(), strict=True
    ):
        for kind, label in (("ours", "tasks (ours)"), ("lora", "LoRA adapters")):
            names = [name for name in taken if name.startswith(kind)]
            rates = [batch / median(taken[name]) for name in names]
            axes.plot([_count(name) for name in names], rates, marker="o", label=label)
        for name, style in (("zero_shot", "--"), ("fixed_head", ":"), ("few_shot_12", "-.")):
            if name in taken:
                label = name.replace("_", " ")
                axes.axhline(batch / median(taken[name]), ls=style, color="grey", label=label)
        axes.set(
            title=f"{length} tokens", xlabel="distinct in a batch", xscale="log", ylim=(0, None)
        )
    axes.legend(fontsize="small")
    figure.axes[0].set_ylabel(f"requests/s, batches of {batch}")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Command line."""
    parser = options(__doc__, quick="few variants, under 5 minutes")
    parser.add_argument("--model", type=Path, help="LLaMA checkpoint; random weights if absent")
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    batch, rounds = (64, 3) if args.quick else (256, 5)
    rounds = args.rounds or rounds
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = args.model or random_model(scratch / "model")
        adapters = 0 if args.quick else max(ADAPTERS)
        tasks = max(QUICK_TASKS if args.quick else TASKS)
        engines = Engines(random_workload(model, scratch, tasks, adapters, full=tasks), batch)
        seconds = measure(variants(engines, args.quick), batch, rounds)
    show(seconds, batch)
    model_name = args.model.name if args.model else SHAPE
    setting = {"model": model_name, "batch": batch, "rounds": rounds}
    report(args.json, {"headline": headline(seconds), "setting": setting, "seconds": seconds})
    if args.json:
        plot(seconds, batch, args.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
