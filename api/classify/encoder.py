"""Text to prompt token ids that fit the model's context."""

from typing import Any

from ifedicl_serve.contract.tokens import guarded
from ifedicl_serve.errors import TextTooLongError
from ifedicl_serve.tasks.task import Task


class PromptEncoder:
    """Renders and tokenises texts for a task, exactly as calibration did.

    Raises ModelError for a tokenizer that cannot keep control tokens out of texts.
    """

    def __init__(self, tokenizer: Any, max_model_len: int) -> None:
        self.tokenizer = guarded(tokenizer)
        self.max_model_len = max_model_len

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
                    f"the prompt for this text has {len(ids)} tokens, but task {task.name!r} on "
                    f"this model takes at most {limit}; shorten the text or send "
                    '"truncate": true (--truncate of `ifedicl classify`)'
                )
            text = self._shortened(text, len(ids) - limit, task)
            (ids,) = self.tokenizer.ids([prompt.render(text)])
        return ids

    def encode_all(
        self, task: Task, texts: list[str], truncate: bool
    ) -> list[list[int] | TextTooLongError]:
        """As `encode` for many texts, tokenised together; an error in the place of its text."""
        if not texts:
            return []
        limit = self._limit(task)
        prompts = [task.spec.prompt.render(text) for text in texts]
        return [
            ids if len(ids) <= limit else self._fitted(task, text, truncate)
            for text, ids in zip(texts, self.tokenizer.ids(prompts), strict=True)
        ]

    def _fitted(self, task: Task, text: str, truncate: bool) -> list[int] | TextTooLongError:
        try:
            return self.encode(task, text, truncate)
        except TextTooLongError as error:
            return error

    def _limit(self, task: Task) -> int:
        """Tokens a prompt may have."""
        return self.max_model_len - max(len(node.path) for node in task.trie.nodes)

    def _shortened(self, text: str, surplus: int, task: Task) -> str:
        """The text without its last `surplus` tokens."""
        starts = self.tokenizer.starts(text)
        # Cut before the first surplus token: several byte tokens may spell one character.
        end = starts[-surplus] if surplus < len(starts) else 0
        if end == 0:
            raise TextTooLongError(
                f"the template of task {task.name!r} alone fills the context of "
                f"{self.max_model_len} tokens; serve with a larger --max-model-len"
            )
        return text[:end]
