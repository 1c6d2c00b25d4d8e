"""Constructed texts: expands `grammar.toml` at random into labelled sentences of our own wording.

Knows the grammar's format. Refuses to know any evaluation set.
"""

from __future__ import annotations

import random
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

GRAMMAR = Path(__file__).with_name("grammar.toml")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Passage:
    """A text, and where its natural label is known: the label set's name and the label."""

    text: str
    family: str = ""
    label: str = ""


class Grammar:
    """Families of labels, each label with templates and slots."""

    def __init__(self, path: Path = GRAMMAR) -> None:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        self.shared: dict[str, list[str]] = content.pop("shared")
        self.families: dict[str, dict] = content

    def labels(self, family: str) -> list[str]:
        """The family's labels in order."""
        return self.families[family]["label_order"]

    def words(self) -> set[str]:
        """Every word a constructed text can contain, labels included."""
        found: set[str] = set()
        pending: list[object] = [self.shared, self.families]
        while pending:
            item = pending.pop()
            if isinstance(item, dict):
                pending += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                pending += item
            else:
                found.update(re.findall(r"[a-z]+", str(item)))
        return found

    def sample(self, family: str, rng: random.Random) -> Passage:
        """One passage of a random label of `family`."""
        label = rng.choice(self.labels(family))
        scopes = [self.families[family][label], self.families[family], self.shared]
        text = self._fill(rng.choice(scopes[0]["templates"]), scopes, rng)
        return Passage(re.sub(r"\s+", " ", text).strip(), family, label)

    def _fill(self, template: str, scopes: list[dict], rng: random.Random) -> str:
        def replace(match: re.Match[str]) -> str:
            options = next(scope[match[1]] for scope in scopes if match[1] in scope)
            return self._fill(rng.choice(options), scopes, rng)

        return _SLOT.sub(replace, template)
