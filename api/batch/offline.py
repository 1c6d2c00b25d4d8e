"""Scores one task's labels with vLLM's `LLM`: the only file here that knows it."""

from pathlib import Path
from typing import Any

import numpy as np

from api.batch.run import Floats, OnProgress, Scores
from api.classify.encoder import PromptEncoder
from api.classify.engine import group_requests
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.tasks.task import Task


class BatchEngine:
    """Scores many prompts of a task at a time.

    The artifact must be in the engine's folder. Raises PromptError if its labels do not tokenise.
    """

    def __init__(self, llm: Any, artifact: Artifact, folder: Path) -> None:
        from vllm import PoolingParams

        tokenizer = llm.get_tokenizer()
        artifact.spec.model.refuse_other_tokenizer(tokenizer)
        self.llm = llm
        self.task = Task.of(artifact, tokenizer, folder)
        self.prompts = PromptEncoder(tokenizer, llm.model_config.max_model_len)
        self.nodes = self.task.trie.nodes
        asked = [request.asked for request in group_requests([self.task])]
        self.widths = [readout.scores for one in asked for readout in one.readouts]
        self.params = [
            PoolingParams(task="classify", extra_kwargs=one.extra_kwargs()) for one in asked
        ]

    def scores(self, prompts: list[list[int]], on_progress: OnProgress) -> Scores:
        """Log-softmaxes of the trie's nodes after each prompt, [prompts, choices], and the scores
        of the task's label rows, [prompts, labels], if it has some.

        A prompt's nodes are asked for together and reuse its cached prefix. `on_progress` is
        told of prompts done since, in fractions.
        """
        scores = self._node_scores(prompts, on_progress)
        tokens = len(self.nodes[0].children)
        first, rows, rest = np.split(scores, [tokens, self.widths[0]], axis=1)
        return np.concatenate([first, rest], axis=1), rows if self.task.label_rows else None

    def _node_scores(self, prompts: list[list[int]], on_progress: OnProgress) -> Floats:
        """[prompts, choices and label rows]: the rows are behind the first node's choices."""
        if not prompts:
            return np.empty((0, sum(self.widths)), np.float32)
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
        scores = [  # behind a request's own labels is padding
            output.outputs.data.numpy()[:width]
            for output, width in zip(outputs, self.widths * len(prompts), strict=True)
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
