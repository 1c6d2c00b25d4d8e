"""Scores one task's labels with vLLM's `LLM`: the only file here that knows it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from api.batch.run import OnProgress
from api.classify.encoder import PromptEncoder
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.prompt import label_trie
from ifedicl_serve.plugin.request import TaskRequest
from ifedicl_serve.tasks.task import Task


class BatchEngine:
    """Scores many prompts of a task at a time.

    The artifact must be in the engine's folder. Raises PromptError if its labels do not tokenise.
    """

    def __init__(self, llm: Any, artifact: Artifact, folder: Path) -> None:
        from vllm import PoolingParams

        spec, tokenizer = artifact.spec, llm.get_tokenizer()
        trie = label_trie(tokenizer, spec.prompt, spec.verbalizations)
        self.llm = llm
        self.task = Task(spec, artifact.digest, generation="", folder=folder, trie=trie)
        self.prompts = PromptEncoder(tokenizer, llm.model_config.max_model_len)
        self.nodes = trie.nodes
        requests = [TaskRequest(artifact.digest, node.children) for node in self.nodes]
        self.params = [
            PoolingParams(task="classify", extra_kwargs=request.extra_kwargs())
            for request in requests
        ]

    def choices(self, prompts: list[list[int]], on_progress: OnProgress) -> npt.NDArray[np.float32]:
        """Log-softmaxes of the trie's nodes after each prompt, [prompts, choices].

        A prompt's nodes are asked for together and reuse its cached prefix. `on_progress` is
        told of prompts done since, in fractions.
        """
        if not prompts:
            return np.empty((0, sum(len(node.children) for node in self.nodes)), np.float32)
        # Else the last bits of scores would depend on what came before this chunk.
        self.llm.reset_prefix_cache()
        inputs = [
            {"prompt_token_ids": [*ids, *node.path]} for ids in prompts for node in self.nodes
        ]
        outputs = self.llm.encode(
            inputs,
            self.params * len(prompts),
            pooling_task="classify",
            use_tqdm=lambda **_: _Bar(len(self.nodes), on_progress),
        )
        widths = [len(node.children) for node in self.nodes] * len(prompts)
        scores = [  # behind a request's own labels is padding
            output.outputs.data.numpy()[:width]
            for output, width in zip(outputs, widths, strict=True)
        ]
        return np.concatenate(scores).reshape(len(prompts), -1)


class _Bar:
    """What `LLM.encode` takes for a bar of tqdm's: counts requests, reports prompts."""

    EVERY = 64  # requests

    def __init__(self, requests_per_prompt: int, on_progress: OnProgress) -> None:
        self.n = 0
        self.reported = 0
        self.requests_per_prompt = requests_per_prompt
        self.on_progress = on_progress

    def update(self, count: int) -> None:
        self.n += count
        if self.n - self.reported >= self.EVERY:
            self.refresh()

    def refresh(self) -> None:
        self.on_progress((self.n - self.reported) / self.requests_per_prompt)
        self.reported = self.n

    def close(self) -> None:
        self.refresh()
