"""What prepare_data.py wrote about the passages, read back: ids, labels, the teacher's view.

Knows which passages belong to which word or natural label. Refuses to know prompts.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

Example = tuple[int, ...]  # passages joined to one text


class Passages:
    """What prepare_data.py wrote: encoded passages and the content words' scores for them."""

    def __init__(self, path: Path) -> None:
        saved = torch.load(path, weights_only=True)
        self.ids: list[list[int]] = saved["ids"]
        self.natural: list[tuple[str, str]] = saved["natural"]
        self.vectors: Tensor = saved["vectors"]
        self.words: list[str] = saved["words"]
        self.word_ids: Tensor = saved["word_ids"]
        self._scaled = saved["word_vectors"].float() / saved["word_std"].unsqueeze(-1)
        self._shift = saved["word_mean"] / saved["word_std"]
        self.by_length = sorted(range(len(self.ids)), key=lambda i: len(self.ids[i]))
        index = {word: i for i, word in enumerate(self.words)}
        self.natural_word = [index.get(label, -1) if label else -1 for _, label in self.natural]
        self.members: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(self.natural):
            self.members.setdefault(key, []).append(row)
        self.families = self._families(saved["natural_sets"], index)
        self.nearest: Tensor = saved["nearest"]

    def vectors_of(self, examples: list[Example]) -> Tensor:
        """The teacher's view of each example, [examples, 384]; of joined passages, their mean."""
        found = [self.vectors[list(rows)].float().mean(0) for rows in examples]
        return torch.nn.functional.normalize(torch.stack(found), dim=-1)

    def scores(self, vectors: Tensor) -> Tensor:
        """Standardised scores of every word for these vectors, [vectors, words]."""
        return vectors @ self._scaled.T - self._shift

    def tokens(self, example: Example) -> list[int]:
        """The example's text."""
        return [token for row in example for token in self.ids[row]]

    def _families(
        self, natural_sets: dict[str, list[str]], index: dict[str, int]
    ) -> list[dict[int, list[int]]]:
        members = self.members
        return [
            {
                index[label]: members[family, label]
                for label in labels
                if label in index and (family, label) in members
            }
            for family, labels in natural_sets.items()
        ]
