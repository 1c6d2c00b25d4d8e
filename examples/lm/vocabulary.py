"""The tokenizer: an uncased WordPiece vocabulary, a subset of all-MiniLM-L6-v2's own.

Knows which pieces stay and in what order. A line break is the piece "⏎"; nothing is added
automatically (no BOS), so a prompt's tokens are the same for transformers and for vLLM.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Replace, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, UNK, BOS, EOS, NEWLINE = "[PAD]", "[UNK]", "<s>", "</s>", "⏎"
SPECIAL = [PAD, UNK, BOS, EOS]
MODERN_SHARE = 0.65


def _is_plain(piece: str) -> bool:
    """Latin letters, digits or printable ASCII: what an English text can need."""
    body = piece.removeprefix("##")
    return body.isascii() and body.isprintable() and not piece.startswith("[")


def choose_pieces(
    teacher_vocab: dict[str, int], counts: dict[str, int], keep: set[str], size: int
) -> list[str]:
    """`size` pieces in id order: specials, newline, single characters, then words by usefulness.

    The teacher's ids are roughly ordered by frequency in modern text, `counts` by our corpora.
    `MODERN_SHARE` of the places follow the first order, so 'internet' stays although no old novel
    has it, the rest the second; words in `keep` stay in any case.
    """
    plain = [
        piece for piece in sorted(teacher_vocab, key=teacher_vocab.__getitem__) if _is_plain(piece)
    ]
    singles = [piece for piece in plain if len(piece.removeprefix("##")) == 1]
    singles += ["£", "€", "“", "”", "‘", "’", "–", "—", "…"]
    singles = [piece for piece in singles if piece in teacher_vocab]
    rest = [piece for piece in plain if len(piece.removeprefix("##")) > 1]
    wanted = size - len(SPECIAL) - 1 - len(singles)
    chosen = (keep & set(rest)) | set(rest[: int(wanted * MODERN_SHARE)])
    frequent = sorted((p for p in rest if p not in chosen), key=lambda p: -counts.get(p, 0))
    chosen |= set(frequent[: wanted - len(chosen)])
    return [*SPECIAL, NEWLINE, *singles, *(piece for piece in rest if piece in chosen)]


def build_tokenizer(pieces: list[str]) -> PreTrainedTokenizerFast:
    """A fast tokenizer over `pieces`; the list's order is the ids' order."""
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocab, unk_token=UNK, max_input_chars_per_word=100))
    tokenizer.normalizer = Sequence([Replace("\n", f" {NEWLINE} "), BertNormalizer(lowercase=True)])
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNK, bos_token=BOS, eos_token=EOS
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer files, compactly: the folder's size is a budget."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")))
