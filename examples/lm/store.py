"""What prepare_data.py wrote about the passages, read back: ids, labels, the teacher's view.

Knows which passages belong to which word or natural label. Refuses to know prompts.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor

Example = tuple[int, ...]  # passages joined to one text

CANDIDATES, DOMAIN = 6_000, 1_500  # passages a broad class is drawn from; of these, one domain's
TILTS = (0.0, 0.4, 0.8)  # how far a broad class may be from what its word says
FIELD = 24  # words of one field
MARGINS = (0.3, 0.6, 1.0)  # share of a broad class that is kept, the clearest first


class Passages:
    """What prepare_data.py wrote: encoded passages and the content words' scores for them."""

    def __init__(self, path: Path) -> None:
        saved = torch.load(path, weights_only=True)
        self.ids: list[list[int]] = saved["ids"]
        self.natural: list[tuple[str, str]] = saved["natural"]
        self.vectors: Tensor = saved["vectors"]
        self.centre = self.vectors[:50_000].float().mean(0)
        self.words: list[str] = saved["words"]
        self.word_ids: Tensor = saved["word_ids"]
        self._word_vectors = saved["word_vectors"].float()
        self._scaled = self._word_vectors / saved["word_std"].unsqueeze(-1)
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

    def draw_words(self, count: int, rng: random.Random) -> list[int]:
        """Different words; half of the time words of one field, as real label sets are."""
        if rng.random() < 0.5:
            return rng.sample(range(len(self.words)), count)
        likeness = self._word_vectors @ self._word_vectors[rng.randrange(len(self.words))]
        return rng.sample(likeness.topk(FIELD).indices.tolist(), count)

    def broad_classes(self, words: list[int], rng: random.Random) -> list[list[int]]:
        """Passages by which of `words` fits best, at random depth and precision.

        Unlike a word's nearest texts these are not alike, often of one domain, and the words tell
        the classes only in part: an example says something, but less than a lookup would believe.
        """
        rows = torch.tensor(rng.sample(range(len(self.ids)), min(CANDIDATES, len(self.ids))))
        if rng.random() < 0.5:
            anchor = self.vectors[rng.randrange(len(self.ids))].float()
            rows = rows[(self.vectors[rows].float() @ anchor).topk(min(DOMAIN, len(rows))).indices]
        vectors = self.vectors[rows].float()
        away = self.vectors[rng.choices(rows.tolist(), k=len(words))].float()
        directions = self._word_vectors[words] + rng.choice(TILTS) * away
        scores = vectors @ directions.T
        scores = (scores - scores.mean(0)) / scores.std(0)
        size = max(8, int(rng.choice(MARGINS) * len(rows) / len(words)))
        found = []
        for cls in range(len(words)):
            others = torch.cat([scores[:, :cls], scores[:, cls + 1 :]], dim=1).amax(1)
            found.append(rows[(scores[:, cls] - others).topk(size).indices].tolist())
        return found

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
