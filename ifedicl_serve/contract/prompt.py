"""A task's prompt as a value, and the tokens that its labels are.

A label's tokens are what it adds to the tokenised prompt, so they are right for BPE, SentencePiece
and WordPiece alike. This file knows no model's format: who writes a chat's prompt has its parts.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ifedicl_serve.contract.labels import LabelTrie, Tokens
from ifedicl_serve.contract.tokens import Prompt, token_ids
from ifedicl_serve.errors import PromptError

PLACEHOLDER = "{text}"
# Text put into the template while label tokens are worked out; any text gives the same
# label tokens as long as the template's own tail separates it from the label.
PROBE = "a"

Part = Annotated[str, Field(max_length=20_000)]


class Turns(BaseModel):
    """How demonstrations are written as earlier turns of a chat: what stands before the text of the
    `first`, of each `later` one, and of the text that is `asked` about behind them, and the `tail`
    between a demonstration's text and its label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: Part
    later: Part
    asked: Part
    tail: Part


class PromptTemplate(BaseModel):
    """How a text becomes a prompt: the `head`, the text, the `tail`.

    A label follows behind `label_prefix`: a space, or nothing where the tail itself ends as the
    model expects. `separator` ends a demonstration; its first token also ends a label that is a
    prefix of another one. Without `turns` a demonstration is a prompt with its label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Part
    tail: Part
    label_prefix: Annotated[str, Field(max_length=100)] = " "
    separator: Annotated[str, Field(min_length=1, max_length=100)] = "\n\n"
    # Not written if there are none, so that releases before them read what they could.
    turns: Turns | None = Field(default=None, exclude_if=lambda turns: turns is None)

    @model_validator(mode="after")
    def _does_not_end_in_space(self) -> Self:
        if self.label_prefix and _ends_in_space(self.tail):
            raise ValueError(
                f"template {self.template!r} ends in white space, but the label is appended after "
                f"{self.label_prefix!r}; remove the white space at the end"
            )
        return self

    @classmethod
    def of(cls, template: str, separator: str = "\n\n") -> Self:
        """From one text with a place for the text, e.g. ``"Text: {text}\\nTopic:"``.

        A label follows after a space, or directly behind a template that ends in white space.
        Raises PromptError unless there is exactly one place.
        """
        head, tail = split_template(template)
        prefix = "" if _ends_in_space(tail) else " "
        return cls(head=head, tail=tail, label_prefix=prefix, separator=separator)

    @property
    def template(self) -> str:
        """Head and tail around the placeholder, for people."""
        return f"{self.head}{PLACEHOLDER}{self.tail}"

    def begun_as(self, other: "PromptTemplate") -> "PromptTemplate":
        """With all that stands before a text as another template, of the same kind, has it."""
        turns = (
            other.turns and self.turns and other.turns.model_copy(update={"tail": self.turns.tail})
        )
        return self.model_copy(update={"head": other.head, "turns": turns})

    def render(self, text: str) -> Prompt:
        """The prompt for a text, up to where the label goes."""
        return Prompt((self.head, text, self.tail))

    def render_demonstration(self, text: str, verbalization: str) -> Prompt:
        """Prompt, label and separator: one labelled example as the model reads it."""
        return self._labelled(self._turns.first, text, verbalization)

    def render_after(self, demonstrations: Sequence[tuple[str, str]], text: str) -> Prompt:
        """The prompt for a text behind demonstrations, at least one: each a text and the words of
        its label."""
        turns = self._turns
        heads = [turns.first] + [turns.later] * (len(demonstrations) - 1)
        context = Prompt(("",))
        for head, (shown, verbalization) in zip(heads, demonstrations, strict=True):
            context += self._labelled(head, shown, verbalization)
        return context + Prompt((turns.asked, text, self.tail))

    @property
    def _turns(self) -> Turns:
        return self.turns or Turns(
            first=self.head, later=self.head, asked=self.head, tail=self.tail
        )

    def _labelled(self, head: str, text: str, verbalization: str) -> Prompt:
        behind = self._turns.tail + self.label_prefix
        return Prompt((head, text, behind, verbalization, self.separator))


def split_template(template: str) -> tuple[str, str]:
    """What stands before and behind the place for the text. Raises PromptError unless there is
    exactly one."""
    if template.count(PLACEHOLDER) != 1:
        raise PromptError(
            f"template {template!r} has {template.count(PLACEHOLDER)} placeholders "
            f"{PLACEHOLDER}, expected exactly one; write e.g. 'Text: {PLACEHOLDER}\\nTopic:'"
        )
    head, tail = template.split(PLACEHOLDER)
    return head, tail


def tail_tokens(tokenizer: Any, prompt: PromptTemplate) -> int:
    """How many tokens the tail adds behind a text: the last so many tokens of a prompt are what a
    task of extent `tail` adapts, whatever its text."""
    whole = token_ids(tokenizer, prompt.render(PROBE))
    return len(whole) - len(token_ids(tokenizer, Prompt((prompt.head, PROBE, ""))))


def label_trie(tokenizer: Any, prompt: PromptTemplate, verbalizations: list[str]) -> LabelTrie:
    """Tokenise the labels after the prompt and arrange them in a trie.

    Raises PromptError if a label merges with the prompt or collides with another label.
    """
    return LabelTrie.build(verbalizations, tokenized_labels(tokenizer, prompt, verbalizations))


def tokenized_labels(
    tokenizer: Any, prompt: PromptTemplate, verbalizations: list[str]
) -> list[Tokens]:
    """Each label's tokens after the prompt, the terminator last."""
    head = prompt.render(PROBE)
    return [
        label_tokens(tokenizer, head, label, prompt.separator, prompt.label_prefix)
        for label in verbalizations
    ]


def label_tokens(
    tokenizer: Any, head: Prompt, label: str, separator: str, prefix: str = " "
) -> Tokens:
    """Tokens of `label` after `head` and `prefix`, ended by the first token of the separator."""
    head_ids = token_ids(tokenizer, head)
    label_ids = token_ids(tokenizer, head + Prompt((prefix, label, "")))
    ended_ids = token_ids(tokenizer, head + Prompt((prefix, label, separator)))
    if label_ids[: len(head_ids)] != head_ids or len(label_ids) == len(head_ids):
        raise PromptError(
            f"label {label!r} does not tokenise apart from the prompt {str(head)!r}: end the "
            "template with a word or punctuation mark, and start the label with a letter"
        )
    if ended_ids[: len(label_ids)] != label_ids or len(ended_ids) == len(label_ids):
        raise PromptError(
            f"label {label!r} merges with the separator {separator!r} in this tokenizer; choose "
            "another separator, e.g. a newline"
        )
    return tuple(label_ids[len(head_ids) :]) + (ended_ids[len(label_ids)],)


def _ends_in_space(text: str) -> bool:
    return text != text.rstrip()
