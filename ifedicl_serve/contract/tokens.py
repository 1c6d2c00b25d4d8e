"""Prompts as token ids, the same when fitting and when serving. A text is data: where it spells a
control token such as `<|im_end|>`, it reads as these letters.

Knows the fast tokenizers of Hugging Face. Their own `split_special_tokens` will not do: it holds
for the template too, and it is set on the tokenizer, which others use at the same time. Nor will
tokenising part by part, as tokens may reach from the template into the text.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ifedicl_serve.errors import ModelError


@dataclass(frozen=True)
class Prompt:
    """What a model reads, as parts that are written (a template's) and parts that are data (a text,
    a label), in turn; the first and the last are written."""

    parts: tuple[str, ...]

    def __add__(self, other: "Prompt") -> "Prompt":
        return Prompt((*self.parts[:-1], self.parts[-1] + other.parts[0], *other.parts[1:]))

    def __str__(self) -> str:
        return "".join(self.parts)


def token_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """A prompt's tokens. They begin as the tokenizer begins a sequence (BOS), once: not again if
    the prompt is written so. What it would end one with (EOS) is left out.

    Raises ModelError for a tokenizer that cannot keep control tokens out of data.
    """
    return guarded(tokenizer).ids([prompt])[0]


@lru_cache(maxsize=8)
def guarded(tokenizer: Any) -> "GuardedTokenizer":
    """The guarded copy of a tokenizer, which is made once. Raises ModelError."""
    return GuardedTokenizer(tokenizer)


class GuardedTokenizer:
    """A copy of a tokenizer to which control tokens are known by secret names alone.

    They are called so in what is written, before it is tokenised with the data between; data cannot
    guess them. A copy never changes, so threads may share it.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"{type(tokenizer).__name__} is not one of the fast tokenizers, which alone can "
                "keep control tokens out of texts; save the checkpoint with a tokenizer.json"
            )
        self.backend = Tokenizer.from_str(backend.to_str())
        self.backend.no_padding()
        self.backend.no_truncation()
        self.backend.encode_special_tokens = True  # as ordinary text
        self.opening = _opening(self.backend)
        self._rename_control_tokens()

    def ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Each prompt's tokens, as `token_ids`."""
        texts = [self._joined(prompt) for prompt in prompts]
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [self._opened([self._ids.get(i, i) for i in one.ids]) for one in encodings]

    def starts(self, text: str) -> list[int]:
        """At which character each token of a text begins."""
        return [start for start, _ in self.backend.encode(text, add_special_tokens=False).offsets]

    def _rename_control_tokens(self) -> None:
        added = self.backend.get_added_tokens_decoder()
        control = {number: token for number, token in added.items() if token.special}
        self._refuse_spelled(control)
        nonce = secrets.token_hex(16)
        self._names = {token.content: f"<{nonce}.{number}>" for number, token in control.items()}
        self.backend.add_tokens(
            [
                AddedToken(
                    self._names[token.content],
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                )
                for token in control.values()
            ]
        )
        self._ids = {
            self.backend.token_to_id(self._names[token.content]): number
            for number, token in control.items()
        }
        longest_first = sorted(self._names, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _refuse_spelled(self, control: dict[int, AddedToken]) -> None:
        """A control token that is a word of the model's too would be read in data all the same. The
        one for unknown words may be."""
        unknown = getattr(self.backend.model, "unk_token", None)
        for number, token in control.items():
            spelled = self.backend.encode(token.content, add_special_tokens=False).ids
            if token.content != unknown and number in spelled:
                raise ModelError(
                    f"this tokenizer reads {token.content!r} in a text as control token {number}, "
                    "not as ordinary text; take a checkpoint with a byte-level or SentencePiece "
                    "BPE tokenizer"
                )

    def _joined(self, prompt: Prompt) -> str:
        parts = list(prompt.parts)
        parts[::2] = [
            self._control.sub(lambda found: self._names[found[0]], part) for part in parts[::2]
        ]
        return "".join(parts)

    def _opened(self, ids: list[int]) -> list[int]:
        return ids if ids[: len(self.opening)] == self.opening else self.opening + ids


def _opening(backend: Tokenizer) -> list[int]:
    """What a tokenizer puts before a sequence."""
    encoding = backend.encode("a")
    marked = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    return [number for number, added in takewhile(lambda one: one[1], marked)]
