"""Training batches: plain text, single prompts, and in-context episodes.

Knows the prompt templates and which positions are scored against which target. A batch is a pure
function of (seed, step), so a resumed run sees exactly what an uninterrupted one would have seen.
Refuses to know the model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lm.store import Example, Passages

TEXT_FIELDS = "text news sentence review tweet message question input document passage".split()
LABEL_FIELDS = (
    "topic label category emotion sentiment type intent answer class subject output feeling".split()
)
TEMPERATURE = 0.5  # of the soft targets, in standard deviations of a word's score
NATURAL_WEIGHT = 0.6  # share of a known natural label in a target; the rest is the teacher's
ARBITRARY_SHARE = 0.15  # episodes whose labels mean nothing outside their prompt
NATURAL_SHARE = 0.25  # episodes over a natural label set
BROAD_SHARE = 0.6  # of the other episodes, those with broad classes (`Passages.broad_classes`)
JOINED_SHARE = 0.35  # single batches and long episodes whose texts are two passages each
REPEAT_SHARE = 0.05  # examples of an episode that repeat an earlier one's text
HARD_WEIGHT = {"words": 0.3, "natural": 0.6, "broad": 0.5, "arbitrary": 1.0}  # of the drawn class
LIKENESS, DOUBT = 10.0, 0.05  # what earlier examples say: sharpness by cosine, floor of a label


@dataclass
class Batch:
    """Right-padded ids [rows, length]; targets for some positions of the flattened batch.

    `label_at` [n] are positions that predict a label, `vectors` [n, 384] the teacher's view of the
    text each is about, `words` [n, words] the target over content words (a row of zeros: no label
    loss there);
    `next_at` [m] are positions scored against the id that follows them.
    """

    ids: Tensor
    next_at: Tensor
    label_at: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    vectors: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    words: Tensor = field(default_factory=lambda: torch.zeros(0, 0))


class Batches:
    """Builds the three kinds of batch."""

    def __init__(
        self, passages: Passages, stream: Tensor, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> None:
        self.passages, self.stream, self.seed = passages, stream, seed
        self.heads = [tokenizer(f"{name}:")["input_ids"] for name in TEXT_FIELDS]
        self.asks = [tokenizer(f"\n{name}:")["input_ids"] for name in LABEL_FIELDS]
        self.newline = tokenizer("\n")["input_ids"]

    def text(self, step: int, rows: int, length: int) -> Batch:
        """Plain text; a third of the positions is scored."""
        rng = random.Random(f"text:{self.seed}:{step}")
        starts = [rng.randrange(len(self.stream) - length) for _ in range(rows)]
        ids = torch.stack([self.stream[s : s + length] for s in starts]).long()
        return Batch(ids, self._some_positions(ids, rng, share=3))

    def single(self, step: int, tokens: int) -> Batch:
        """One prompt a row, rows of like length, each asking for the label of its text."""
        rng = random.Random(f"single:{self.seed}:{step}")
        order = self.passages.by_length
        first = rng.randrange(len(order) - 32)
        length = len(self.passages.ids[order[first]]) + 7
        window = order[max(0, first - 4000) : first + 1]
        near = [row for row in window if len(self.passages.ids[row]) + 7 >= length - 3]
        joined = rng.random() < JOINED_SHARE
        count = max(16, tokens // (2 * length if joined else length))
        chosen = [self._example(rng.choice(near), rng, joined) for _ in range(count)]
        prompts = [self._prompt(e, rng.choice(self.heads), rng.choice(self.asks)) for e in chosen]
        ids = _pad(prompts)
        ends = torch.tensor([i * ids.shape[1] + len(p) - 1 for i, p in enumerate(prompts)])
        some = self._some_positions(ids, rng, share=16)
        vectors = self.passages.vectors_of(chosen)
        return Batch(ids, some, ends, vectors, self._open_targets(chosen, vectors))

    def episodes(self, step: int, rows: int, length: int) -> Batch:
        """Rows of labelled examples, `length` tokens each."""
        rng = random.Random(f"episodes:{self.seed}:{step}")
        made = [self._episode(rng, length) for _ in range(rows)]
        ids = torch.tensor([sequence for sequence, *_ in made])
        at = [
            row * length + position for row, (_, ends, *_) in enumerate(made) for position in ends
        ]
        vectors = torch.cat([vectors for *_, vectors, _ in made])
        targets = torch.cat([words for *_, words in made])
        some = self._some_positions(ids, rng, share=16)
        return Batch(ids, some, torch.tensor(at), vectors, targets)

    def _prompt(self, example: Example, head: list[int], ask: list[int]) -> list[int]:
        return [*head, *self.passages.tokens(example), *ask]

    def _example(self, row: int, rng: random.Random, joined: bool) -> Example:
        """The passage, or it and another with the same label or among the same word's nearest."""
        if not joined:
            return (row,)
        length = len(self.passages.ids[row])
        alike = self._alike(row)
        drawn = [rng.choice(alike) for _ in range(6)]
        return (row, min(drawn, key=lambda other: abs(len(self.passages.ids[other]) - length)))

    def _alike(self, row: int) -> list[int]:
        family, label = self.passages.natural[row]
        if family:
            return self.passages.members[family, label]
        best = int(self.passages.scores(self.passages.vectors_of([(row,)])).argmax())
        return self.passages.nearest[best].tolist()

    def _open_targets(self, examples: list[Example], vectors: Tensor) -> Tensor:
        """Targets over all content words: the teacher's, and the natural label where known."""
        soft = (self.passages.scores(vectors) / TEMPERATURE).softmax(-1)
        for i, rows in enumerate(examples):
            word = self.passages.natural_word[rows[0]]
            if word >= 0:
                soft[i] *= 1 - NATURAL_WEIGHT
                soft[i, word] += NATURAL_WEIGHT
        return soft

    def _episode(
        self, rng: random.Random, length: int
    ) -> tuple[list[int], list[int], Tensor, Tensor]:
        """One row: its ids, the label positions, the vectors and the targets there."""
        pools, shown, kind = self._label_set(rng)
        head, ask = rng.choice(self.heads), rng.choice(self.asks)
        separator = self.newline * rng.choice((1, 2, 2))
        longest = rng.choice((20, 30, 60, 90))
        joined = length > 256 and rng.random() < JOINED_SHARE
        ids: list[int] = []
        at: list[int] = []
        examples: list[Example] = []
        classes: list[int] = []
        while True:
            cls = rng.randrange(len(pools))
            again = [e for e, known in zip(examples, classes, strict=True) if known == cls]
            if again and rng.random() < REPEAT_SHARE:
                example = rng.choice(again)  # the same text once more: plain lookup is learnt first
            else:
                drawn = [rng.choice(pools[cls]) for _ in range(4)]
                best = sorted(drawn, key=lambda row: self._excess(row, longest))
                example = tuple(best[: 2 if joined else 1])
            prompt = self._prompt(example, head, ask)
            if len(ids) + len(prompt) + 4 > length:
                break
            ids += prompt
            at.append(len(ids) - 1)
            examples.append(example)
            classes.append(cls)
            ids += [int(self.passages.word_ids[shown[cls]]), *separator]
        ids += [0] * (length - len(ids))
        vectors = self.passages.vectors_of(examples)
        return ids, at, vectors, self._episode_targets(examples, vectors, classes, shown, kind)

    def _excess(self, row: int, longest: int) -> int:
        return max(0, len(self.passages.ids[row]) - longest)

    def _label_set(self, rng: random.Random) -> tuple[list[list[int]], list[int], str]:
        """Example pools per class, the word shown for each class, and the kind of the set."""
        kind = "words"
        if rng.random() < NATURAL_SHARE:
            family = rng.choice(self.passages.families)
            words = rng.sample(sorted(family), rng.randint(2, min(6, len(family))))
            pools = [family[word] for word in words]
            kind = "natural"
        else:
            words = self.passages.draw_words(rng.choice((2, 2, 3, 4, 5, 6, 8)), rng)
            if rng.random() < BROAD_SHARE:
                pools = self.passages.broad_classes(words, rng)
                kind = "broad"
            else:
                pools = [self.passages.nearest[word].tolist() for word in words]
        if rng.random() < ARBITRARY_SHARE:
            pools = rng.sample(pools, min(len(pools), rng.choice((2, 2, 3))))
            words = rng.sample(range(len(self.passages.words)), len(pools))
            kind = "arbitrary"
        return pools, words, kind

    def _episode_targets(
        self,
        examples: list[Example],
        vectors: Tensor,
        classes: list[int],
        shown: list[int],
        kind: str,
    ) -> Tensor:
        """First position: open, as for a single prompt. Later ones: over the episode's labels.

        There the drawn class is mixed with what can be known: the label word's score for the text,
        weighed against the labels of the earlier examples, by their likeness to it.
        """
        targets = torch.zeros(len(examples), len(self.passages.words))
        labels = torch.tensor(shown)
        hard = torch.nn.functional.one_hot(torch.tensor(classes), len(shown)).float()
        prior = self.passages.scores(vectors)[:, labels] / TEMPERATURE
        soft = (prior + self._evidence(vectors, hard)).softmax(-1)
        weight = HARD_WEIGHT[kind]
        targets[:, labels] = (1 - weight) * soft + weight * hard
        if kind == "arbitrary":
            seen: set[int] = set()
            for i, cls in enumerate(classes):
                if cls not in seen:
                    targets[i] = 0  # nothing in the prompt says what this class is called
                seen.add(cls)
        else:
            targets[0] = self._open_targets(examples[:1], vectors[:1])[0]
        return targets

    def _evidence(self, vectors: Tensor, hard: Tensor) -> Tensor:
        """Log weight of each label by earlier examples, [examples, labels]; equal at the first."""
        unit = torch.nn.functional.normalize(vectors - self.passages.centre, dim=-1)
        later = torch.ones(len(unit), len(unit), dtype=torch.bool).triu()
        share = (LIKENESS * unit @ unit.T).masked_fill(later, -1e4).softmax(-1) @ hard
        share[0] = 0
        return (share + DOUBT).log()

    def _some_positions(self, ids: Tensor, rng: random.Random, share: int) -> Tensor:
        """A random 1/share of the positions whose next id is not padding."""
        ahead = torch.zeros_like(ids, dtype=torch.bool)
        ahead[:, :-1] = ids[:, 1:] != 0
        candidates = ahead.flatten().nonzero().squeeze(-1)
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        picked = torch.randperm(len(candidates), generator=generator)[: len(candidates) // share]
        return candidates[picked]


def _pad(rows: list[list[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])
