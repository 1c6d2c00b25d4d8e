"""Ways to classify a batch of prompts on vLLM: as it comes, with adapters, and with our tasks.

Every engine is compiled and lives in its own process; all are alive together. Knows no clock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from bench.common.random_tasks import random_task
from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.plugin.request import AskedReadout, TaskKey, TaskRequest

EXAMPLES = Path(__file__).parents[2] / "examples"
# Large enough that the engine, not Python around it, is the bottleneck on two cores.
SHAPE: dict[str, Any] = dict(
    vocab_size=32_000, hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
    num_attention_heads=6, num_key_value_heads=2, head_dim=64, max_position_embeddings=8192,
)  # fmt: skip
LABEL_TOKENS = (300, 301, 302, 303)
FULL_LABELS = ("card", "cash", "transfer", "exchange", "loan", "fee", "limit", "refund")
FULL_LABEL_TOKENS = (300, 301, 302, 303, 304, 305, 306, 307)
LORA_RANK = 8
MAX_MODEL_LEN = 8192  # 24 demonstrations of 256 tokens and the text

Prompts = list[dict[str, list[int]]]
Classify = Callable[[Prompts], Any]


def random_model(folder: Path) -> Path:
    """A LLaMA of SHAPE (26M parameters) with random weights in bf16, and a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, tie_word_embeddings=True, dtype="bfloat16")
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(EXAMPLES / "base_model").save_pretrained(folder)
    return folder


def random_adapters(model: Path, folder: Path, count: int) -> list[Path]:
    """LoRA adapters of rank 8 on the query and value projections, equal but for their names.

    Of the model no more than its config is read: the shapes are enough.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    lora = LoraConfig(r=LORA_RANK, target_modules=["q_proj", "v_proj"])
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
        shapes = get_peft_model_state_dict(get_peft_model(network, lora))
    matrices = {
        name: torch.randn(matrix.shape).mul(0.02).bfloat16() for name, matrix in shapes.items()
    }
    lora.save_pretrained(str(folder / "0"))
    save_file(matrices, folder / "0" / "adapter_model.safetensors")
    for number in range(1, count):
        shutil.copytree(folder / "0", folder / str(number))
    return [folder / str(number) for number in range(count)]


@dataclass(frozen=True)
class Workload:
    """A checkpoint with tasks and LoRA adapters of it, all on disk.

    `digests` are of tasks with coefficients, `full` of ones with scale and shift per channel and a
    row for each of eight labels.
    """

    model: Path
    tasks_dir: Path
    digests: list[str]
    full: list[str]
    adapters: list[Path]


def random_workload(
    model: Path, scratch: Path, tasks: int, adapters: int = 0, full: int = 0
) -> Workload:
    """So many random tasks, adapters and full tasks of a checkpoint, in `scratch`."""
    folder = scratch / "tasks"
    digests = [random_task(model, folder / f"task{seed}", seed).digest for seed in range(tasks)]
    rung: dict[str, Any] = dict(labels=FULL_LABELS, fit="channels", readout="head")
    fuller = [random_task(model, folder / f"full{n}", n, **rung).digest for n in range(full)]
    made = random_adapters(model, scratch / "adapters", adapters) if adapters else []
    return Workload(model, folder, digests, fuller, made)


class Engines:
    """Engines on one checkpoint, each started when it is first asked for.

    `options` are vLLM's, for all of them.
    """

    def __init__(self, workload: Workload, batch: int, **options: Any) -> None:
        self.workload = workload
        self.common: dict[str, Any] = dict(
            model=str(workload.model),
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=batch,
            enable_prefix_caching=True,
            **options,
        )
        # Positions beyond the checkpoint's own cost the same and mean nothing here.
        self.longer = {"max_position_embeddings": MAX_MODEL_LEN}
        self._started: list[Any] = []
        self._adapted: Any = None

    def shut_down(self) -> None:
        """End the engines' processes. A process that is not the program's main one must: at its
        end it waits for its children, before vLLM ends them."""
        for llm in self._started:
            llm.llm_engine.engine_core.shutdown()

    def _start(self, **options: Any) -> Any:
        from vllm import LLM

        self._started.append(LLM(**(self.common | options)))
        return self._started[-1]

    def plain(self) -> Classify:
        """vLLM as it comes: one token, with the labels' log-probabilities."""
        return _generating(self._start(hf_overrides=self.longer))

    def multi_lora(self, counts: Sequence[int]) -> dict[int, Classify]:
        """vLLM with adapters, the prompts dealt in turn to the first `count` of them."""
        from vllm.lora.request import LoRARequest

        llm = self._start(
            hf_overrides=self.longer,
            enable_lora=True,
            max_loras=len(self.workload.adapters),
            max_lora_rank=LORA_RANK,
        )
        requests = [
            LoRARequest(path.name, number + 1, str(path))
            for number, path in enumerate(self.workload.adapters)
        ]
        return {count: _generating(llm, requests[:count]) for count in counts}

    def fixed_head(self) -> Classify:
        """vLLM's own classification: one linear head of as many outputs for every request."""
        from vllm import PoolingParams

        llm = self._start(
            runner="pooling",
            convert="classify",
            load_format="dummy",  # the checkpoint has no head
            hf_overrides={**self.longer, "num_labels": len(LABEL_TOKENS)},
        )
        params = PoolingParams(task="classify")
        return lambda prompts: llm.encode(prompts, params, pooling_task="classify", use_tqdm=False)

    def ours(self, counts: Sequence[int]) -> dict[int, Classify]:
        """Our tasks, the prompts dealt in turn to the first `count` of them."""
        readouts = (AskedReadout(LABEL_TOKENS),)
        asked = [TaskRequest(TaskKey(digest), readouts) for digest in self.workload.digests]
        return {count: self.dealt(asked[:count]) for count in counts}

    def full(self) -> Classify:
        """Our full tasks in the same engine, the prompts dealt to all of them in turn."""
        keys = [TaskKey(digest) for digest in self.workload.full]
        return self.dealt(
            [
                TaskRequest(key, (AskedReadout(FULL_LABEL_TOKENS, len(FULL_LABELS), key),))
                for key in keys
            ]
        )

    def dealt(self, asked: list[TaskRequest]) -> Classify:
        """What is asked of our tasks, to the prompts in turn."""
        from vllm import PoolingParams

        self._adapted = llm = self._adapted or self._start_adapted()
        dealt = [PoolingParams(task="classify", extra_kwargs=one.extra_kwargs()) for one in asked]

        def classify(prompts: Prompts) -> Any:
            params = [dealt[index % len(dealt)] for index in range(len(prompts))]
            return llm.encode(prompts, params, pooling_task="classify", use_tqdm=False)

        return classify

    def _start_adapted(self) -> Any:
        """With a slot for every task: none is loaded while it is measured."""
        from vllm.config import PoolerConfig

        architecture = AutoConfig.from_pretrained(self.workload.model).architectures[0]
        tasks = len(self.workload.digests) + len(self.workload.full)
        slots = max(self.common["max_num_seqs"], tasks)
        return self._start(
            runner="pooling",
            pooler_config=PoolerConfig(task="classify"),
            hf_overrides={**self.longer, "architectures": [ADAPTED_ARCHITECTURES[architecture]]},
            additional_config=TaskConfig(self.workload.tasks_dir, slots),
        )


def _generating(llm: Any, adapters: Sequence[Any] = ()) -> Classify:
    from vllm import SamplingParams

    # The least that gives a label's score: nothing is drawn, and no token turned into text.
    params = SamplingParams(
        max_tokens=1, temperature=0.0, logprob_token_ids=list(LABEL_TOKENS), detokenize=False
    )

    def classify(prompts: Prompts) -> Any:
        dealt = [adapters[i % len(adapters)] for i in range(len(prompts))] if adapters else None
        return llm.generate(prompts, params, lora_request=dealt, use_tqdm=False)

    return classify
