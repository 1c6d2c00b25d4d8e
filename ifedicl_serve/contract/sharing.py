"""Which tasks compute a text once, together: those that adapt none of it and have one head.

An engine shares what prompts begin with, token by token, and a task's own part of it begins at the
first token that it adapts. So a head that differs by one blank shares nothing.
"""

import hashlib
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import combinations
from typing import NamedTuple

from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import TaskSpec


class Sharing(NamedTuple):
    """Names of tasks that adapt no text, by their prompt's head; pairs of these heads that nearly
    are equal; and names of tasks that adapt the text."""

    heads: dict[str, list[str]]
    near: list[tuple[str, str]]
    adapting: list[str]


def sharing_of(specs: Iterable[TaskSpec]) -> Sharing:
    """Of tasks of one model."""
    heads: dict[str, list[str]] = {}
    adapting: list[str] = []
    for spec in specs:
        names = adapting if spec.adapts_text else heads.setdefault(spec.prompt.head, [])
        names.append(spec.name)
    near = [pair for pair in combinations(heads, 2) if _nearly_equal(*pair)]
    return Sharing(heads, near, adapting)


def head_digest(prompt: PromptTemplate) -> str:
    """Of all that a prompt has before its text."""
    return hashlib.sha256(prompt.head.encode()).hexdigest()


def _nearly_equal(*heads: str) -> bool:
    """But for one word that is another, or not there; white space and case are looked over."""
    one, other = (head.casefold().split() for head in heads)
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    return all(
        len(changes) == 1 and max(end - start, other_end - other_start) == 1
        for _, start, end, other_start, other_end in changes
    )
