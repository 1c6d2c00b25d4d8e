"""The engine as the routes see it: label tokens of a prompt in, log-probabilities out."""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch

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


class PoolingEngine:
    """LabelEngine on vLLM's engine client in its pooling runner: label tokens alone are scored."""

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


class GenerationEngine:
    """LabelEngine on vLLM's engine client in its generate runner: one token, and label log-probs.

    The whole vocabulary is scored, so it is slower than `PoolingEngine`.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    async def token_scores(
        self, task: Task, prompt_ids: list[int], token_ids: tuple[int, ...]
    ) -> TokenScores:
        from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS as most

        parts = [token_ids[start : start + most] for start in range(0, len(token_ids), most)]
        scored = await asyncio.gather(*(self._generate(task, prompt_ids, part) for part in parts))
        among_all = torch.from_numpy(np.concatenate([scores.log_probs for scores in scored]))
        cached = min(scores.cached_tokens for scores in scored)
        return TokenScores(among_all.log_softmax(dim=0).numpy(), cached)

    async def _generate(
        self, task: Task, prompt_ids: list[int], token_ids: tuple[int, ...]
    ) -> TokenScores:
        """Log-probabilities of `token_ids` among the whole vocabulary."""
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=1,
            logprob_token_ids=list(token_ids),
            detokenize=False,
            extra_args=TaskRequest(task.digest, generation=task.generation).extra_kwargs(),
        )
        prompt = {"prompt_token_ids": prompt_ids}
        async for output in self.client.generate(prompt, params, f"classify-{uuid4().hex}"):
            result = output
        completion = result.outputs[0]
        if completion.finish_reason == "error":
            log_probs = np.full(len(token_ids), np.nan, dtype=np.float32)
        else:
            first = completion.logprobs[0]
            log_probs = np.array([first[token].logprob for token in token_ids], dtype=np.float32)
        return TokenScores(log_probs, result.num_cached_tokens or 0)
