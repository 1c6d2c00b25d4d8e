"""Classification, as one path: prompts, label scores, probabilities. Knows no HTTP and no vLLM."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from api.classify.encoder import PromptEncoder
from api.classify.engine import LabelEngine, trie_scores
from api.classify.threads import EncoderThreads
from api.classify.together import all_or_none
from ifedicl_serve.tasks.task import Task


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
        self.encoder = EncoderThreads(prompts)

    async def classify(
        self, task: Task, texts: list[str], truncate: bool = False, adapted: bool = True
    ) -> list[Scored]:
        """Score every text, in order. Raises InputError or TaskUnavailableError for all of them.

        Every prompt is checked before the engine sees the first. Unadapted is the base model's
        answer to the same prompts.
        """
        if adapted:
            self.engine.refuse(task)
        prompts = await self.encoder.encode(task, texts, truncate)
        return await all_or_none(self._score(task, prompt, adapted) for prompt in prompts)

    async def _score(self, task: Task, prompt: list[int], adapted: bool) -> Scored:
        (scores,) = await trie_scores(self.engine, [task], prompt, adapted)
        probabilities = task.read_out(scores.log_probs, scores.row_scores, adapted)
        return Scored(probabilities, len(prompt), scores.cached_tokens)
