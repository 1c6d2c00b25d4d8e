"""The content words: single-piece nouns and adjectives a label could be, and their teacher scores.

A word's score for a text is its cosine with the text, standardised over the corpus word by word, so
the soft targets built from it carry no prior for popular words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import torch

NEAREST = 150  # texts kept per word as that word's examples
_TOKEN = re.compile(r"[A-Za-z]+")

# Words labels are often made of; in the list whatever their frequency.
LABEL_WORDS = """world sports business technology science joy sadness anger fear love surprise
objective subjective opinion fact positive negative neutral card transfer refund cash exchange
identity delivery password age account company school artist athlete politician vehicle building
nature village animal plant album film book psychology philosophy history politics sociology
economics anatomy astronomy ethics writing anthropology marketing biology software law education
entrepreneurship government medicine health travel weather music food art religion war crime sport
money finance market internet computer story review news question answer complaint praise happy sad
angry afraid surprised good bad true false yes no question statement description person place
organization location number event entity dialogue narration memory emotion family military energy
space physics chemistry mathematics language literature culture society fiction poetry""".split()


def lowercase_counts(texts: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """How often each word occurs, and how often of these in lower case."""
    total: Counter[str] = Counter()
    lower: Counter[str] = Counter()
    for text in texts:
        found = Counter(_TOKEN.findall(text))
        for word, count in found.items():
            total[word.lower()] += count
            if word.islower():
                lower[word] += count
    return total, lower


def content_words(
    texts: Iterable[str], vocab: dict[str, int], keep: set[str], size: int
) -> list[str]:
    """`size` one-piece words: label words, then frequent ones that are no names or stop words."""
    total, lower = lowercase_counts(texts)
    stop = {word for word, _ in total.most_common(150)}
    first = [word for word in dict.fromkeys([*LABEL_WORDS, *sorted(keep)]) if word in vocab]
    ranked = [
        word
        for word, count in total.most_common()
        if word in vocab and len(word) > 3 and word not in stop and lower[word] > 0.7 * count
    ]
    return list(dict.fromkeys([*first, *ranked]))[:size]


def standardisation(texts: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per word, mean and standard deviation of its cosine with the texts; both [words]."""
    cosines = texts.float() @ words.float().T
    return cosines.mean(0), cosines.std(0)


def nearest_texts(scaled: torch.Tensor, shift: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The `NEAREST` texts with the highest standardised score for each word, [words, NEAREST]."""
    best = torch.full((len(scaled), NEAREST), -1e9)
    rows = torch.zeros(len(scaled), NEAREST, dtype=torch.long)
    for start in range(0, len(texts), 16_384):
        part = texts[start : start + 16_384].float()
        where = torch.arange(start, start + len(part)).expand(len(scaled), -1)
        scores = torch.cat([best, scaled @ part.T - shift.unsqueeze(-1)], dim=1)
        best, picked = scores.topk(NEAREST, dim=1)
        rows = torch.cat([rows, where], dim=1).gather(1, picked)
    return rows
