"""Classification, as one path: prompt, label scores, result. Knows no HTTP and no vLLM."""

import asyncio
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from api.engine import LabelEngine
from api.prompts import PromptEncoder
from ifedicl_serve.registry import Task, unavailable


@dataclass(frozen=True)
class Scored:
    """One text's label probabilities [labels], in the task's label order."""

    probabilities: npt.NDArray[np.float64]
    prompt_tokens: int
    cached_tokens: int


class Classifier:
    """Classifies texts by tasks on one engine."""

    def __init__(self, engine: LabelEngine, prompts: PromptEncoder) -> None:
        self.engine = engine
        self.prompts = prompts

    async def classify(self, task: Task, texts: list[str], truncate: bool = False) -> list[Scored]:
        """Score every text, in order. Raises InputError or TaskUnavailableError for all of them.

        Every prompt is checked before the engine sees the first.
        """
        prompts = await asyncio.to_thread(self._encode, task, texts, truncate)
        return await asyncio.gather(*(self._score(task, prompt) for prompt in prompts))

    def _encode(self, task: Task, texts: list[str], truncate: bool) -> list[list[int]]:
        return [self.prompts.encode(task, text, truncate) for text in texts]

    async def _score(self, task: Task, prompt: list[int]) -> Scored:
        """Score the trie's root, then its inner nodes, which reuse the prompt's cached prefix."""
        root, *inner = task.trie.nodes
        first = await self.engine.token_scores(task, [*prompt, *root.path], root.children)
        rest = await asyncio.gather(
            *(
                self.engine.token_scores(task, [*prompt, *node.path], node.children)
                for node in inner
            )
        )
        choices = np.concatenate([scores.log_probs for scores in (first, *rest)])
        if np.isnan(choices).any():
            raise unavailable(task)
        probabilities = np.exp(task.trie.log_probs(choices).astype(np.float64))
        return Scored(probabilities, len(prompt), first.cached_tokens)
