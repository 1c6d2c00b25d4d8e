"""Prepare the base model's training data, once: tokenizer, embeddings, teacher-encoded passages.

    python examples/prepare_data.py --corpus DIR --data DIR --out DIR

Everything a run of pretrain.py reads is written under --out. Sources: OpenStax textbooks (CC BY
4.0), public-domain books, dbpedia14 (CC BY-SA), and texts constructed from lm/grammar.toml.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from lm.constructed import Grammar, Passage
from lm.corpus import BOOKS, OPENSTAX, documents
from lm.embeddings import piece_embeddings
from lm.passages import DBPEDIA_LABELS, WordMixer, from_dbpedia, from_documents
from lm.teacher import Teacher, model_dir
from lm.vocabulary import SPECIAL, build_tokenizer, choose_pieces, save_tokenizer
from lm.words import LABEL_WORDS, content_words, nearest_texts, standardisation
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

BOOK_CHARACTERS = 80_000  # of each book: enough to count words and to draw passages
LONG = 28  # words; longer passages are thinned out
CONSTRUCTED = {"news": 24_000, "feelings": 14_000, "film": 14_000, "help": 8_000}
DRAWN = {"textbooks": 90_000, "books": 35_000}
MIXED = {"swapped": 20_000, "mixed": 30_000}


@dataclass(frozen=True)
class Texts:
    """The corpora's documents."""

    textbooks: list[str]
    books: list[str]

    @property
    def all(self) -> list[str]:
        """Textbooks, then books."""
        return self.textbooks + self.books


def read_texts(corpus: Path) -> Texts:
    """Whole textbooks, and the same length of every book."""
    books = [text[:BOOK_CHARACTERS] for text in documents(corpus, BOOKS)]
    return Texts(list(documents(corpus, OPENSTAX)), books)


def count_pieces(texts: list[str]) -> tuple[dict[str, int], Counter[str]]:
    """The teacher's vocabulary, and how often the corpora use each of its pieces."""
    tokenizer = Tokenizer.from_file(str(model_dir() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts: Counter[str] = Counter()
    for start in range(0, len(texts), 64):
        for encoding in tokenizer.encode_batch(texts[start : start + 64], add_special_tokens=False):
            counts.update(encoding.tokens)
    return tokenizer.get_vocab(), counts


def embed_pieces(
    teacher: Teacher, pieces: list[str], vocab: dict[str, int], counts: Counter[str], width: int
) -> torch.Tensor:
    """The frozen embedding rows, [pieces, width]."""
    unknown = vocab["[UNK]"]
    static = teacher.static_embeddings()[[vocab.get(piece, unknown) for piece in pieces]]
    alone = teacher.encode([piece.removeprefix("##") for piece in pieces], progress="pieces")
    common = max(counts.values())  # of pieces no text spells: rare ones would draw attention
    uses = [counts[p] if p in vocab and p not in SPECIAL else common for p in pieces]
    return piece_embeddings(static, alone, torch.tensor(uses), width)


def collect_passages(
    texts: Texts, data: Path, mixer: WordMixer, scale: float, seed: int
) -> list[Passage]:
    """All passages, shuffled; `scale` multiplies how many of each kind."""
    rng, grammar = random.Random(seed), Grammar()
    found = from_dbpedia(data)
    for docs, kind in ((texts.textbooks, "textbooks"), (texts.books, "books")):
        drawn = list(from_documents(docs, rng))
        found += rng.sample(drawn, min(int(scale * DRAWN[kind]), len(drawn)))
    index = {word: i for i, word in enumerate(mixer.words) if len(word) > 4}
    plain = [p for p in found if len(p.text.split()) <= 25 and not p.family]
    swapped = range(int(scale * MIXED["swapped"]))
    found += [mixer.swap(rng.choice(plain), index, rng) for _ in swapped]
    found += [mixer.sample(rng) for _ in range(int(scale * MIXED["mixed"]))]
    for family, count in CONSTRUCTED.items():
        made = (grammar.sample(family, rng) for _ in range(int(scale * count)))
        found += {passage.text: passage for passage in made}.values()
    rng.shuffle(found)
    return found


def thin_out(passages: list[Passage], share: float, seed: int) -> list[Passage]:
    """All passages of up to `LONG` words and a share of the longer ones, which cost the most."""
    rng = random.Random(seed)
    return [p for p in passages if len(p.text.split()) <= LONG or rng.random() < share]


def token_stream(tokenizer: PreTrainedTokenizerBase, texts: list[str], seed: int) -> torch.Tensor:
    """The documents as one row of ids, shuffled, EOS between them; int16 would overflow at 32k."""
    order = list(texts)
    random.Random(seed).shuffle(order)
    ids: list[int] = []
    for start in range(0, len(order), 64):
        for row in tokenizer(order[start : start + 64])["input_ids"]:
            ids += [*row, tokenizer.eos_token_id]
    return torch.tensor(ids, dtype=torch.int32)


def prepare_pieces(teacher: Teacher, texts: Texts, out: Path, args: argparse.Namespace) -> None:
    """Tokenizer, embeddings and token stream, written to `out`."""
    vocab, counts = count_pieces(texts.all)
    keep = {word for word in Grammar().words() | set(LABEL_WORDS) if word in vocab}
    pieces = choose_pieces(vocab, counts, keep, args.vocabulary)
    tokenizer = build_tokenizer(pieces)
    save_tokenizer(tokenizer, out / "tokenizer")
    torch.save(embed_pieces(teacher, pieces, vocab, counts, args.width), out / "embeddings.pt")
    torch.save(token_stream(tokenizer, texts.all, args.seed), out / "stream.pt")


def natural_sets() -> dict[str, list[str]]:
    """The label sets whose passages carry their label."""
    grammar = Grammar()
    found = {family: grammar.labels(family) for family in grammar.families}
    return {**found, "dbpedia": list(DBPEDIA_LABELS.values())}


def prepare_passages(teacher: Teacher, texts: Texts, out: Path, args: argparse.Namespace) -> None:
    """Passages, content words and the teacher's view of both, written to `out`."""
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    vocab = tokenizer.get_vocab()
    labels = {label for family in natural_sets().values() for label in family}
    words = content_words(texts.all, vocab, labels, args.words)
    word_vectors = teacher.encode(words, progress="words")
    modern = sorted(piece for piece in vocab if piece.isalpha() and len(piece) > 3)
    mixer = WordMixer(modern, teacher.encode(modern, progress="mixing words"))
    passages = collect_passages(texts, args.data, mixer, args.scale, args.seed)
    passages = thin_out(passages, args.long_share, args.seed)
    encoded = teacher.encode([p.text for p in passages], progress="passages")
    mean, std = standardisation(encoded[:20_000], word_vectors)
    scaled = word_vectors.float() / std.unsqueeze(-1)
    content = {
        "ids": [tokenizer(p.text)["input_ids"] for p in passages],
        "natural": [(p.family, p.label) for p in passages],
        "natural_sets": natural_sets(),
        "vectors": encoded,
        "words": words,
        "word_ids": torch.tensor(tokenizer.convert_tokens_to_ids(words)),
        "word_vectors": word_vectors,
        "word_mean": mean,
        "word_std": std,
        "nearest": nearest_texts(scaled, mean / std, encoded),
    }
    torch.save(content, out / "passages.pt")
    print(f"{len(passages):,} passages, {len(words):,} words, {len(vocab):,} pieces in {out}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds dbpedia14/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=17_024)
    parser.add_argument("--words", type=int, default=3_600)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of passages")
    parser.add_argument("--long-share", type=float, default=0.13)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    teacher = Teacher("cuda" if torch.cuda.is_available() else "cpu")
    texts = read_texts(args.corpus)
    prepare_pieces(teacher, texts, args.out, args)
    prepare_passages(teacher, texts, args.out, args)


if __name__ == "__main__":
    main()
