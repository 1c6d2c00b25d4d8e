"""Whether scores on this machine are calibration's: hooked model = plugin = fused export.

Tasks of every kind on the embedded checkpoint, with random tensors strong enough to change
predictions. The reference is the hooked Hugging Face model, float32 on the CPU. Beside it stand, in
float32 and in bfloat16, on each of vLLM's model runners, with CUDA graphs where there is a GPU:

    alone      each request in a batch of its own
    mixed      all tasks' requests, and unadapted ones, in one batch
    cached     the same batch again, its prompts' KV in the prefix cache
    chunked    prompts that are prefilled in several steps
    broken     a batch beside requests of a task that cannot be loaded
    fused      the exported checkpoint on vLLM as it comes

Prints the largest difference in label log-probability of each and fails if one is above its
tolerance. On a GPU some five minutes from nothing, before bench.gpu.

    python -m bench.agreement [--json FILE]
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from bench.common.asking import log_probs
from bench.common.engines import EXAMPLES
from bench.common.random_tasks import random_task
from bench.common.report import machine, options, report
from calibration.settings import Machine
from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.contract.artifact import Artifact, load_artifact
from ifedicl_serve.contract.readout import log_softmax
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.tasks.task import Task

MODEL = EXAMPLES / "base_model"
LABELS = ("card", "card payment", "cash", "exchange rate")  # of one and of several tokens
RUNGS: tuple[dict[str, Any], ...] = (
    {"fit": "coefficients"},
    {"fit": "coefficients", "extent": "tail", "readout": "bias"},
    {"fit": "channels", "readout": "head"},
    {"fit": "channels", "extent": "tail"},
    {"fit": "none", "readout": "head"},
)
FUSED = 0  # which of them is exported: no readout, every token
TEXTS = [f"question {n}: " + "why was my card declined? " * (1 + 3 * n) for n in range(8)]
CHUNK = 64  # tokens a step where prefill is chunked: the longest prompt takes several
# float32 sums in another order; on a GPU attention in float32 uses TF32, ten bits of mantissa.
# bfloat16 has seven: one rounding is 2^-8 relative, and there are some in each of six layers.
TOLERANCE = {"float32": 1e-4, "float32 on a GPU": 2e-2, "bfloat16": 0.3}

Scores = npt.NDArray[np.floating]  # [tasks, texts, labels] log-probabilities; the last task is none
DTYPES = ("float32", "bfloat16")
RUNNERS = {"V1": "0", "V2": "1"}  # values of VLLM_USE_V2_MODEL_RUNNER


@dataclass(frozen=True)
class Setting:
    """An engine; `chunk` bounds the tokens of a step."""

    runner: str
    dtype: str
    gpu: bool
    chunk: int | None = None

    @property
    def tolerance(self) -> float:
        on_gpu = self.gpu and self.dtype == "float32"
        return TOLERANCE["float32 on a GPU" if on_gpu else self.dtype]

    def engine(self, model: Path, **more: Any) -> Any:
        """Start it in this process."""
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = RUNNERS[self.runner]
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm import LLM

        return LLM(
            model=str(model),
            dtype=self.dtype,
            max_model_len=512,
            max_num_seqs=min(256, self.chunk or 256),
            max_num_batched_tokens=self.chunk or 8192,
            enable_prefix_caching=True,
            gpu_memory_utilization=0.3,
            **more,
        )


def make_tasks(folder: Path) -> list[Path]:
    """One of every kind."""
    names = [folder / f"task{seed}" for seed in range(len(RUNGS))]
    for seed, (name, rung) in enumerate(zip(names, RUNGS, strict=True)):
        random_task(MODEL, name, seed, labels=LABELS, **rung)
    return names


def expected(names: Sequence[Path]) -> Scores:
    """What calibration's hooked model answers, and without a task."""
    from calibration.model.load import open_model
    from calibration.stages.evaluate import Evaluation
    from calibration.task import TaskDefinition
    from ifedicl_serve.contract.injection import adapted_mask

    model = open_model(str(MODEL), Machine("fp32", "cpu"))

    def answers(artifact: Artifact) -> Scores:
        spec = artifact.spec
        evaluation = Evaluation(model, TaskDefinition.of(spec), [])
        evaluation.texts = TEXTS
        mask = adapted_mask(spec.num_layers, spec.layers, spec.sites)
        return evaluation.adapted(artifact.injection, mask, spec.extent, artifact.readout)

    artifacts = [load_artifact(name) for name in names]
    bare = Evaluation(model, TaskDefinition.of(artifacts[0].spec), [])
    bare.texts = TEXTS
    return np.array([*map(answers, artifacts), bare.zero_shot()], dtype=float)


def plugin_scores(setting: Setting, names: Sequence[Path]) -> dict[str, Scores]:
    """Every way to ask an engine with tasks."""
    from vllm.config import PoolerConfig

    llm = setting.engine(
        MODEL,
        runner="pooling",
        pooler_config=PoolerConfig(task="classify", use_activation=False),
        hf_overrides={"architectures": [ADAPTED_ARCHITECTURES["LlamaForCausalLM"]]},
        additional_config=TaskConfig(names[0].parent),
    )
    tasks = [Task.of(load_artifact(name), llm.get_tokenizer(), name) for name in names]
    asked = [(task, True) for task in tasks] + [(tasks[0], False)]
    ask = partial(log_probs, llm, asked, TEXTS)
    if setting.chunk:
        return {"chunked": np.array(ask())}
    alone = ask(one_by_one=True)
    llm.reset_prefix_cache()
    mixed, cached = ask(), ask()
    lost = replace(tasks[0], digest="0" * 64)
    nothing, *broken = log_probs(llm, [(lost, True), *asked], TEXTS)
    if not np.isnan(nothing).all():
        raise SystemExit("a task that cannot be loaded was answered")
    found = {"alone": alone, "mixed": mixed, "cached": cached, "broken": broken}
    return {name: np.array(scores) for name, scores in found.items()}


def fused_scores(setting: Setting, name: Path, scratch: Path) -> dict[str, Scores]:
    """The exported task on vLLM as it comes."""
    from vllm import SamplingParams

    from calibration.model.load import open_model
    from calibration.result.export import export_fused

    artifact = load_artifact(name)
    checkpoint = scratch / f"fused-{setting.runner}-{setting.dtype}"
    export_fused(open_model(str(MODEL), Machine("fp32", "cpu")), str(MODEL), artifact, checkpoint)
    llm = setting.engine(checkpoint, max_logprobs=-1)
    task = Task.of(artifact, llm.get_tokenizer(), name)
    choices = []
    for node in task.trie.nodes:
        prompts = [
            {
                "prompt_token_ids": [
                    *token_ids(llm.get_tokenizer(), task.spec.prompt.render(text)),
                    *node.path,
                ]
            }
            for text in TEXTS
        ]
        params = SamplingParams(
            max_tokens=1, temperature=0.0, logprob_token_ids=list(node.children), detokenize=False
        )
        answers = llm.generate(prompts, params, use_tqdm=False)
        scores = [
            [answer.outputs[0].logprobs[0][token].logprob for token in node.children]
            for answer in answers
        ]
        choices.append(log_softmax(np.array(scores)))
    return {"fused": task.trie.log_probs(np.concatenate(choices, axis=1))[None]}


def compare(measured: dict[str, Scores], right: Scores) -> dict[str, float]:
    """The largest difference of each."""
    return {
        name: float(np.abs(scores - (right[FUSED][None] if name == "fused" else right)).max())
        for name, scores in measured.items()
    }


def in_process(work: Callable[..., dict[str, Scores]], *args: Any) -> dict[str, Scores]:
    """An engine's environment and memory are its process's own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as process:
        return process.submit(work, *args).result()


def main() -> None:
    """Command line."""
    args = options(__doc__).parse_args()
    import torch

    gpu = torch.cuda.is_available()
    runners = list(RUNNERS) if gpu else ["V1"]  # V2's kernels need a GPU, or Triton's interpreter
    differences: dict[str, dict[str, float]] = {}
    tolerances = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        names = make_tasks(scratch / "tasks")
        right = expected(names)
        for runner in runners:
            for dtype in DTYPES:
                whole = Setting(runner, dtype, gpu)
                chunked = replace(whole, chunk=CHUNK)
                found = in_process(plugin_scores, whole, names)
                found |= in_process(plugin_scores, chunked, names)
                found |= in_process(fused_scores, whole, names[FUSED], scratch)
                key = f"{runner}, {dtype}"
                differences[key], tolerances[key] = compare(found, right), whole.tolerance
                print(key, differences[key], flush=True)
    show(differences, tolerances)
    worst = {
        f"largest difference / tolerance, {key}": round(max(of.values()) / tolerances[key], 3)
        for key, of in differences.items()
    }
    record = {"headline": worst, "differences": differences, "tolerances": tolerances}
    report(args.json, record | {"machine": machine(), "gpu": gpu})
    if not all(ratio <= 1 for ratio in worst.values()):
        raise SystemExit("scores differ from calibration's by more than the tolerance")


def show(differences: dict[str, dict[str, float]], tolerances: dict[str, float]) -> None:
    """A row for every engine."""
    columns = list(next(iter(differences.values())))
    table = Table("runner, dtype", *columns, "tolerance", title="largest |log-probability - right|")
    for key, of in differences.items():
        table.add_row(key, *(f"{of[name]:.1e}" for name in columns), f"{tolerances[key]:g}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
