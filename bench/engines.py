"""Ways to classify a batch of prompts on vLLM: as it comes, with adapters, and with our tasks.

Every engine is compiled and lives in its own process; all are alive together. Knows no clock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.random_tasks import random_task
from ifedicl_serve.plugin import ADAPTED_ARCHITECTURES
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.plugin.request import TaskRequest

EXAMPLES = Path(__file__).parents[1] / "examples"
# Large enough that the engine, not Python around it, is the bottleneck on two cores.
SHAPE: dict[str, Any] = dict(
    vocab_size=32_000, hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
    num_attention_heads=6, num_key_value_heads=2, head_dim=64, max_position_embeddings=8192,
)  # fmt: skip
LABEL_TOKENS = (300, 301, 302, 303)
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
    """LoRA adapters of rank 8 on the query and value projections, equal but for their names."""
    from peft import LoraConfig, get_peft_model

    network = LlamaForCausalLM.from_pretrained(model)
    lora = LoraConfig(r=LORA_RANK, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(network, lora).save_pretrained(str(folder / "0"))
    for number in range(1, count):
        shutil.copytree(folder / "0", folder / str(number))
    return [folder / str(number) for number in range(count)]


class Engines:
    """Engines on one checkpoint, each started when it is first asked for."""

    def __init__(self, model: Path, scratch: Path, batch: int, tasks: int, adapters: int) -> None:
        self.common: dict[str, Any] = dict(
            model=str(model),
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=batch,
            enable_prefix_caching=True,
        )
        # Positions beyond the checkpoint's own cost the same and mean nothing here.
        self.longer = {"max_position_embeddings": MAX_MODEL_LEN}
        self.tasks_dir = scratch / "tasks"
        self.digests = [
            random_task(model, self.tasks_dir / f"task{seed}", seed).digest for seed in range(tasks)
        ]
        self.adapters = random_adapters(model, scratch / "adapters", adapters) if adapters else []

    def plain(self) -> Classify:
        """vLLM as it comes: one token, with the labels' log-probabilities."""
        from vllm import LLM

        return _generating(LLM(hf_overrides=self.longer, **self.common))

    def multi_lora(self, counts: Sequence[int]) -> dict[int, Classify]:
        """vLLM with adapters, the prompts dealt in turn to the first `count` of them."""
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        llm = LLM(
            hf_overrides=self.longer,
            enable_lora=True,
            max_loras=len(self.adapters),
            max_lora_rank=LORA_RANK,
            **self.common,
        )
        requests = [
            LoRARequest(path.name, number + 1, str(path))
            for number, path in enumerate(self.adapters)
        ]
        return {count: _generating(llm, requests[:count]) for count in counts}

    def fixed_head(self) -> Classify:
        """vLLM's own classification: one linear head of as many outputs for every request."""
        from vllm import LLM, PoolingParams

        llm = LLM(
            runner="pooling",
            convert="classify",
            load_format="dummy",  # the checkpoint has no head
            hf_overrides={**self.longer, "num_labels": len(LABEL_TOKENS)},
            **self.common,
        )
        params = PoolingParams(task="classify")
        return lambda prompts: llm.encode(prompts, params, pooling_task="classify", use_tqdm=False)

    def ours(self, counts: Sequence[int]) -> dict[int, Classify]:
        """Our tasks, the prompts dealt in turn to the first `count` of them."""
        from vllm import LLM, PoolingParams
        from vllm.config import PoolerConfig

        architecture = AutoConfig.from_pretrained(self.common["model"]).architectures[0]
        llm = LLM(
            runner="pooling",
            pooler_config=PoolerConfig(task="classify"),
            hf_overrides={**self.longer, "architectures": [ADAPTED_ARCHITECTURES[architecture]]},
            additional_config=TaskConfig(self.tasks_dir),
            **self.common,
        )
        asked = [
            PoolingParams(
                task="classify", extra_kwargs=TaskRequest(digest, LABEL_TOKENS).extra_kwargs()
            )
            for digest in self.digests
        ]

        def variant(count: int) -> Classify:
            def classify(prompts: Prompts) -> Any:
                params = [asked[index % count] for index in range(len(prompts))]
                return llm.encode(prompts, params, pooling_task="classify", use_tqdm=False)

            return classify

        return {count: variant(count) for count in counts}


def _generating(llm: Any, adapters: Sequence[Any] = ()) -> Classify:
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=1, logprob_token_ids=list(LABEL_TOKENS))

    def classify(prompts: Prompts) -> Any:
        dealt = [adapters[i % len(adapters)] for i in range(len(prompts))] if adapters else None
        return llm.generate(prompts, params, lora_request=dealt, use_tqdm=False)

    return classify
