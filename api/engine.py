"""The engine as the routes see it: label tokens of a prompt in, log-probabilities out."""

from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from ifedicl_serve.plugin.request import TaskRequest
from ifedicl_serve.registry import Task


@dataclass(frozen=True)
class TokenScores:
    """Log-probabilities among the tokens asked for (NaN: the task could not be loaded)."""

    log_probs: npt.NDArray[np.float32]  # [tokens]
    cached_tokens: int


class LabelEngine(Protocol):
    """Scores the next token of a prompt under a task."""

    async def token_scores(
        self, task: Task, prompt_ids: list[int], token_ids: tuple[int, ...]
    ) -> TokenScores:
        """Log-softmax among `token_ids` after `prompt_ids`, adapted by `task`."""
        ...


class VllmEngine:
    """LabelEngine on vLLM's engine client."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def token_scores(
        self, task: Task, prompt_ids: list[int], token_ids: tuple[int, ...]
    ) -> TokenScores:
        from vllm import PoolingParams

        request = TaskRequest(task.digest, token_ids, task.generation)
        params = PoolingParams(task="classify", extra_kwargs=request.extra_kwargs())
        prompt = {"prompt_token_ids": prompt_ids}
        async for output in self.client.encode(prompt, params, f"classify-{uuid4().hex}"):
            result = output
        log_probs = result.outputs.data.numpy()[: len(token_ids)]  # the rest is padding
        return TokenScores(log_probs, result.num_cached_tokens or 0)
