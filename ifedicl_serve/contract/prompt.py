"""Prompt text and label tokens: the same code when fitting and when serving.

A label follows the prompt after one space. Its tokens are what it adds to the tokenised
prompt, so they are right for BPE, SentencePiece and WordPiece alike. This file knows a
tokenizer only as a callable returning `input_ids`; it never loads one.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ifedicl_serve.contract.labels import LabelTrie, Tokens
from ifedicl_serve.errors import PromptError

PLACEHOLDER = "{text}"
# Text put into the template while label tokens are worked out; any text gives the same
# label tokens as long as the template's own tail separates it from the label.
PROBE = "a"


class PromptTemplate(BaseModel):
    """How a text becomes a prompt, e.g. ``"Text: {text}\\nTopic:"``.

    `separator` ends a demonstration; its first token also ends a label that is a prefix of
    another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: Annotated[str, Field(max_length=20_000)]
    separator: Annotated[str, Field(min_length=1, max_length=100)] = "\n\n"

    @field_validator("template")
    @classmethod
    def _has_one_placeholder(cls, template: str) -> str:
        if template.count(PLACEHOLDER) != 1:
            raise ValueError(
                f"template {template!r} has {template.count(PLACEHOLDER)} placeholders "
                f"{PLACEHOLDER}, expected exactly one; write e.g. 'Text: {PLACEHOLDER}\\nTopic:'"
            )
        if template != template.rstrip():
            raise ValueError(
                f"template {template!r} ends in white space, but the label is appended after "
                "one space; remove the white space at the end"
            )
        return template

    def render(self, text: str) -> str:
        """The prompt for a text, up to where the label goes."""
        return self.template.replace(PLACEHOLDER, text)

    def render_demonstration(self, text: str, verbalization: str) -> str:
        """Prompt, label and separator: one labelled example as the model reads it."""
        return f"{self.render(text)} {verbalization}{self.separator}"


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenise as a vLLM text prompt is: special tokens as the tokenizer adds them."""
    return list(tokenizer(text).input_ids)


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
    return [label_tokens(tokenizer, head, label, prompt.separator) for label in verbalizations]


def label_tokens(tokenizer: Any, head: str, label: str, separator: str) -> Tokens:
    """Tokens of `label` after `head`, ended by the first token of the separator."""
    head_ids = token_ids(tokenizer, head)
    label_ids = token_ids(tokenizer, f"{head} {label}")
    ended_ids = token_ids(tokenizer, f"{head} {label}{separator}")
    if label_ids[: len(head_ids)] != head_ids or len(label_ids) == len(head_ids):
        raise PromptError(
            f"label {label!r} does not tokenise apart from the prompt {head!r}: end the template "
            "with a word or punctuation mark, and start the label with a letter"
        )
    if ended_ids[: len(label_ids)] != label_ids or len(ended_ids) == len(label_ids):
        raise PromptError(
            f"label {label!r} merges with the separator {separator!r} in this tokenizer; choose "
            "another separator, e.g. a newline"
        )
    return tuple(label_ids[len(head_ids) :]) + (ended_ids[len(label_ids)],)
