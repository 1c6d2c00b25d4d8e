"""Passages of one to three sentences, from the corpora and dbpedia14, and mixed out of words.

Knows where natural labels come from (dbpedia14's classes). Refuses to know the evaluation sets:
`ALLOWED_DATA` is the whole list of labelled sets it opens.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from lm.constructed import Passage

ALLOWED_DATA = "dbpedia14"  # CC BY-SA
DBPEDIA_LABELS = {
    "Company": "company",
    "EducationalInstitution": "school",
    "Artist": "artist",
    "Athlete": "athlete",
    "OfficeHolder": "politician",
    "MeanOfTransportation": "vehicle",
    "Building": "building",
    "NaturalPlace": "nature",
    "Village": "village",
    "Animal": "animal",
    "Plant": "plant",
    "Album": "album",
    "Film": "film",
    "WrittenWork": "book",
}
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"']?\s+(?=[\"'A-Z])")
_PATTERNS = [
    "{0} {1} {2} {3} {4}",
    "{0} and {1} {2} the {3} {4} in {5}",
    "{0} {1} says {2} {3} will {4}",
    "new {0} {1} for {2} {3} , {4} report",
    "the {0} of {1} : {2} {3} and {4}",
    "{0} , {1} , {2} and {3} ; {4} {5} {6}",
    "a {0} {1} with {2} {3} near the {4}",
    "why {0} {1} the {2} ? {3} {4} {5} explain",
    "i {0} my {1} {2} because the {3} was {4}",
]


def from_documents(docs: Iterable[str], rng: random.Random) -> Iterator[Passage]:
    """Runs of one to three sentences, 6 to 60 words long."""
    for doc in docs:
        for paragraph in doc.split("\n\n"):
            sentences = _SENTENCE_END.split(
                paragraph.replace("\n", " ").replace("--", " - ").strip()
            )
            start = 0
            while start < len(sentences):
                count = rng.choice((1, 1, 1, 2, 2, 3))
                text = " ".join(sentences[start : start + count])
                start += count
                if 6 <= len(text.split()) <= 60 and text[-1] in ".!?\"'":
                    yield Passage(text)


def from_dbpedia(folder: Path) -> list[Passage]:
    """dbpedia14's abstracts with their class as natural label, cut at 60 words."""
    found = []
    for split in ("train", "test"):
        for line in (folder / ALLOWED_DATA / f"{split}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            text = " ".join(row["text"].split()[:60])
            found.append(Passage(text, "dbpedia", DBPEDIA_LABELS[row["label"]]))
    return found


class WordMixer:
    """Sentences out of related words, so that modern words the old corpora lack are seen in use."""

    def __init__(self, words: list[str], embeddings: torch.Tensor) -> None:
        unit = torch.nn.functional.normalize(embeddings.float(), dim=-1)
        self.words = words
        self.near = torch.cat(
            [(rows @ unit.T).topk(30).indices for rows in unit.split(1024)]
        ).tolist()

    def sample(self, rng: random.Random) -> Passage:
        """A pattern filled with one random word and words near it."""
        anchor = rng.randrange(len(self.words))
        chosen = [self.words[anchor], *(self.words[i] for i in rng.sample(self.near[anchor], 7))]
        head = chosen[:3]
        rng.shuffle(head)
        return Passage(rng.choice(_PATTERNS).format(*head, *chosen[3:]))

    def swap(self, passage: Passage, index: dict[str, int], rng: random.Random) -> Passage:
        """The passage with about half of its longer words replaced by words near one anchor."""
        anchor = rng.randrange(len(self.words))
        near = [self.words[i] for i in self.near[anchor]]
        words = passage.text.split()
        swapped = [
            rng.choice(near) if word.lower().strip(".,") in index and rng.random() < 0.5 else word
            for word in words
        ]
        return Passage(" ".join(swapped))
