"""Real vLLM engines, in this process and eager unless a test is about something else."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Before vllm is imported: one gibibyte of KV cache, and the engine in this process (2 s to start).
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_LOGGING_LEVEL"] = "WARNING"

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from bench.common.random_tasks import LABELS, random_task
from calibration.model.load import load_model
from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.plugin.config import TaskConfig
from ifedicl_serve.plugin.request import AskedReadout, TaskKey, TaskRequest
from ifedicl_serve.tasks.task import Task
from tests.engine.reference import hooked, trie_of, worker_scores

TINY_QWEN2 = Path(__file__).parents[2] / "examples" / "tiny_qwen2"
NUM_TASKS = 33
# What `random_task` is asked for.
MIXED = (
    {"fit": "coefficients"},
    {"fit": "channels"},
    {"fit": "channels", "readout": "head"},
    {"fit": "none", "readout": "head"},
)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Tiny random checkpoints by architecture family, sharing one tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_QWEN2)
    shape = dict(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=1, head_dim=64, max_position_embeddings=2048,
        initializer_range=0.1,
    )  # fmt: skip
    families = {
        "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"tie_word_embeddings": False}),
    }
    paths = {"qwen2": TINY_QWEN2}
    for family, (config, network, extra) in families.items():
        torch.manual_seed(0)
        paths[family] = tmp_path_factory.mktemp("models") / family
        network(config(**shape, **extra)).save_pretrained(paths[family])
        tokenizer.save_pretrained(paths[family])
    return paths


@pytest.fixture(scope="session")
def tasks(models, tmp_path_factory):
    """33 random tasks of the tiny LLaMA in one folder, of four rungs in turn, and their digests."""
    folder = tmp_path_factory.mktemp("tasks")
    digests = [
        random_task(models["llama"], folder / f"task{seed}", seed, **MIXED[seed % 4]).digest
        for seed in range(NUM_TASKS)
    ]
    return folder, digests


def mixed_requests(tasks, prompts, token_ids) -> list[tuple]:
    """A request a prompt, for the tasks in turn: all want what label rows their task has, every
    second adapts a tail alone, and every ninth names no task."""
    folder, digests = tasks
    requests = []
    for number, prompt in enumerate(prompts):
        kind = number % NUM_TASKS
        rows = len(LABELS) if MIXED[kind % 4].get("readout") == "head" else 0
        asked = {"tail": 5 if number % 2 else None, "label_rows": rows}
        requests.append(
            request(prompt, None, token_ids)
            if number % 9 == 8
            else request(prompt, digests[kind], token_ids, **asked)
        )
    return requests


@dataclass(frozen=True)
class Case:
    """Tasks of the tiny LLaMA, and what the hooked Hugging Face model answers to some prompts."""

    folder: Path
    digests: list[str]
    prompts: list[list[int]]
    labels: tuple[int, ...]  # a token each, so that a request scores all labels of a prompt
    asked: dict[str | None, tuple[int | None, int]]  # tail and label rows by digest; None: no task
    # [prompts, labels] log-probabilities, and behind them the scores of label rows, if asked for
    expected: dict[str | None, np.ndarray]

    def requests(self, *digests: str | None) -> list[tuple]:
        """Every prompt under every task, as `request` takes them."""
        return [
            (ids, digest, self.labels, *self.asked[digest])
            for digest in digests
            for ids in self.prompts
        ]

    def answers(self, *digests: str | None) -> np.ndarray:
        """The hooked model's answers to these requests, one behind the other."""
        return np.concatenate([self.expected[digest].ravel() for digest in digests])


@pytest.fixture(scope="session")
def case(models, tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    labels = ("card", "cash", "exchange", "transfer")
    rungs = (
        {"fit": "coefficients"},
        {"fit": "channels", "extent": "tail", "readout": "head"},
        {"fit": "coefficients", "extent": "tail"},
        {"fit": "none", "readout": "head"},
    )
    artifacts = [
        random_task(models["llama"], folder / f"task{seed}", seed, labels=labels, **rung)
        for seed, rung in enumerate(rungs)
    ]
    model = load_model(str(models["llama"]), dtype="fp32", device="cpu")
    spec = artifacts[0].spec
    questions = [f"question {n}: " + "why was my card declined? " * n for n in range(8)]
    prompts = [spec.prompt.render(question) for question in questions]
    asked = {None: (None, 0)}
    expected = {None: hooked(model, artifacts[0], questions, adapted=False)}
    for artifact in artifacts:
        task = Task.of(artifact, model.tokenizer, folder)
        asked[artifact.digest] = task.tail, task.label_rows
        expected[artifact.digest] = worker_scores(model, artifact, questions)
    (node,) = trie_of(model, spec).nodes
    return Case(
        folder,
        [artifact.digest for artifact in artifacts],
        [token_ids(model.tokenizer, prompt) for prompt in prompts],
        node.children,
        asked,
        expected,
    )


@contextmanager
def engine(model: Path, tasks: Path | None, task: str = "classify", **options) -> Iterator:
    """A vLLM engine: ours if `tasks` is a folder of artifacts, else vLLM as it comes."""
    from vllm import LLM
    from vllm.config import PoolerConfig
    from vllm.distributed import cleanup_dist_env_and_memory

    if tasks is not None:
        architecture = AutoConfig.from_pretrained(model).architectures[0]
        options["hf_overrides"] = {"architectures": [ADAPTED_ARCHITECTURES[architecture]]}
        options.setdefault("additional_config", TaskConfig(tasks))
    elif task == "embed":
        options["convert"] = "embed"
    if task == "generate":
        options["runner"] = "generate"
    else:
        options["runner"] = "pooling"
        options["pooler_config"] = PoolerConfig(task=task, use_activation=False)
    settings = dict(
        dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=64, block_size=32,
        num_gpu_blocks_override=2048,  # for 64 prompts of 1024 tokens; all of it is filled first
    )  # fmt: skip
    llm = LLM(model=str(model), **(settings | options))
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def request(prompt_ids, digest=None, token_ids=(), tail=None, label_rows=0) -> tuple:
    """A raw engine request, as our HTTP route sends it (which sets no cache salt either)."""
    task = None if digest is None else TaskKey(digest)
    readout = AskedReadout(tuple(token_ids), label_rows, task)
    return {"prompt_token_ids": list(prompt_ids)}, TaskRequest(task, (readout,), tail)


def run(llm, requests, task: str = "classify", **options) -> list:
    """Run requests in one batch and return vLLM's outputs in order."""
    from vllm import PoolingParams

    prompts = [prompt for prompt, _ in requests]
    params = [PoolingParams(task=task, extra_kwargs=who.extra_kwargs()) for _, who in requests]
    return llm.encode(prompts, params, pooling_task=task, use_tqdm=False, **options)


def scores(llm, requests) -> list[np.ndarray]:
    """The scores of each request's readouts, without the padding."""
    return [
        own_scores(output, who)
        for output, (_, who) in zip(run(llm, requests), requests, strict=True)
    ]


def own_scores(output, asked: TaskRequest) -> np.ndarray:
    """Of each readout label log-probabilities, and behind them the scores of label rows, if it asks
    for those."""
    return output.outputs.data.numpy()[: sum(readout.scores for readout in asked.readouts)]


def random_prompts(count: int, seed: int = 0, low: int = 8, high: int = 48) -> list[list[int]]:
    """Prompts of random ordinary tokens and random lengths."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(low, high, count)
    return [generator.integers(100, 1000, length).tolist() for length in lengths]
