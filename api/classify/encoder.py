"""Text to prompt token ids that fit the model's context."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ifedicl_serve.contract.tokens import guarded
from ifedicl_serve.errors import TextTooLongError
from ifedicl_serve.tasks.task import Task

Encoded = list[int] | TextTooLongError  # of a text that does not fit, why


class PromptKey(NamedTuple):
    """What a prompt follows from, beside its text."""

    head: str
    tail: str


class PromptEncoder:
    """Renders and tokenises texts for a task, exactly as calibration did.

    Raises ModelError for a tokenizer that cannot keep control tokens out of texts.
    """

    def __init__(self, tokenizer: Any, max_model_len: int) -> None:
        self.tokenizer = guarded(tokenizer)
        self.max_model_len = max_model_len

    def key(self, task: Task) -> PromptKey:
        """Tasks with equal keys have equal prompts, for a text that fits each."""
        return PromptKey(task.spec.prompt.head, task.spec.prompt.tail)

    def cut_key(self, task: Task) -> tuple[PromptKey, int]:
        """Tasks with equal keys have equal prompts, also for a text that is cut."""
        return self.key(task), self._limit(task)

    def encode(self, task: Task, text: str, truncate: bool) -> list[int]:
        """Prompt token ids, leaving room for the longest label path.

        Raises TextTooLongError with both lengths, unless `truncate`, which cuts the text and
        never the template.
        """
        limit = self._limit(task)
        prompt = task.spec.prompt
        (ids,) = self.tokenizer.ids([prompt.render(text)])
        while len(ids) > limit:
            if not truncate:
                raise TextTooLongError(
                    f"the prompt for this text has {len(ids)} tokens, but its task takes at most "
                    f'{limit} on this model; shorten the text or send "truncate": true '
                    "(--truncate of `ifedicl classify`)"
                )
            text = self._shortened(text, len(ids) - limit)
            (ids,) = self.tokenizer.ids([prompt.render(text)])
        return ids

    def encode_all(self, task: Task, texts: list[str], truncate: bool) -> list[Encoded]:
        """As `encode` for many texts, tokenised together; an error in the place of its text."""
        return [prompt for (prompt,) in self.encode_for([task], texts, truncate)]

    def encode_for(
        self, tasks: Sequence[Task], texts: list[str], truncate: bool
    ) -> list[list[Encoded]]:
        """As `encode_all` by several tasks, [texts][tasks]; one object for equal prompts."""
        if not texts:
            return []
        whole = {
            key: self.tokenizer.ids([task.spec.prompt.render(text) for text in texts])
            for key, task in {self.key(task): task for task in tasks}.items()
        }
        keys = [self.cut_key(task) for task in tasks]
        made = {
            (key, limit): [
                ids if len(ids) <= limit else self._encode_or_error(task, text, truncate)
                for text, ids in zip(texts, whole[key], strict=True)
            ]
            for (key, limit), task in dict(zip(keys, tasks, strict=True)).items()
        }
        return [[made[key][row] for key in keys] for row in range(len(texts))]

    def _encode_or_error(self, task: Task, text: str, truncate: bool) -> Encoded:
        """As `encode`, with an error in place of a text that does not fit."""
        try:
            return self.encode(task, text, truncate)
        except TextTooLongError as error:
            return error

    def _limit(self, task: Task) -> int:
        """Tokens a prompt may have."""
        return self.max_model_len - max(len(node.path) for node in task.trie.nodes)

    def _shortened(self, text: str, surplus: int) -> str:
        """The text without its last `surplus` tokens."""
        starts = self.tokenizer.starts(text)
        # Cut before the first surplus token: several byte tokens may spell one character.
        end = starts[-surplus] if surplus < len(starts) else 0
        if end == 0:
            raise TextTooLongError(
                f"the task's template alone fills the context of {self.max_model_len} tokens; "
                "serve with a larger --max-model-len"
            )
        return text[:end]
