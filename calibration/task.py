"""What is being calibrated, before there is an artifact: the task's prompt and its labels.

Every client of a federation holds the same definition; it carries no text and no tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calibration.data.examples import Example
from ifedicl_serve.contract.labels import LabelTrie, Tokens
from ifedicl_serve.contract.prompt import (
    PROBE,
    PromptTemplate,
    label_trie,
    tail_tokens,
    tokenized_labels,
)
from ifedicl_serve.contract.spec import Extent, Label, TaskSpec
from ifedicl_serve.contract.tokens import Prompt, token_ids
from ifedicl_serve.errors import PromptError


@dataclass(frozen=True)
class TaskDefinition:
    """A task's name, prompt and ordered labels."""

    name: str
    prompt: PromptTemplate
    labels: tuple[Label, ...]

    @classmethod
    def of(cls, spec: TaskSpec) -> "TaskDefinition":
        """The definition an artifact was calibrated from."""
        return cls(spec.name, spec.prompt, spec.labels)

    @property
    def names(self) -> list[str]:
        return [label.name for label in self.labels]

    @property
    def verbalizations(self) -> list[str]:
        return [label.verbalization for label in self.labels]

    def trie(self, tokenizer: Any) -> LabelTrie:
        """The label trie under a tokenizer. Raises PromptError if labels collide."""
        return label_trie(tokenizer, self.prompt, self.verbalizations)

    def label_tokens(self, tokenizer: Any) -> list[Tokens]:
        """Each label's tokens after the prompt, the terminator last."""
        return tokenized_labels(tokenizer, self.prompt, self.verbalizations)

    def tail_tokens(self, tokenizer: Any) -> int:
        """How many tokens the template adds behind a text; those of extent `tail`."""
        return tail_tokens(tokenizer, self.prompt)

    def refuse_empty_tail(self, tokenizer: Any, extent: Extent) -> None:
        """Raise PromptError for extent `tail` if the template has nothing behind a text."""
        if extent == "tail" and self.tail_tokens(tokenizer) == 0:
            raise PromptError(
                f"extent tail adapts what stands behind the text, which is nothing in template "
                f"{self.prompt.template!r}; end it with a question, or adapt all tokens"
            )

    def label_room(self, tokenizer: Any) -> int:
        """How many tokens are read beyond a text's prompt at most: those of a label, or of what
        a demonstration has behind its text."""
        prompt = len(token_ids(tokenizer, self.prompt.render(PROBE)))
        shown = [self.demonstration(Example(PROBE, name)) for name in self.names]
        beyond = [len(token_ids(tokenizer, text)) - prompt for text in shown]
        return max(*beyond, *map(len, self.label_tokens(tokenizer)))

    def indices(self, examples: Sequence[Example]) -> list[int]:
        """The position of each example's label among the task's labels."""
        position = {name: index for index, name in enumerate(self.names)}
        return [position[example.label] for example in examples]

    def demonstration(self, example: Example) -> Prompt:
        """A labelled example as the model reads it in context."""
        return self.prompt.render_demonstration(*self._shown(example))

    def few_shot_prompt(self, demonstrations: Sequence[Example], text: str) -> Prompt:
        """Demonstrations followed by the prompt for `text`: in-context learning itself."""
        return self.prompt.render_after([self._shown(one) for one in demonstrations], text)

    def _shown(self, example: Example) -> tuple[str, str]:
        """An example's text and the words of its label."""
        return example.text, self.labels[self.names.index(example.label)].verbalization
