"""Tokenizers of three kinds, and checkpoints."""

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.ifedicl_serve.checkpoints import save_checkpoint

TINY_QWEN2 = Path(__file__).resolve().parents[2] / "examples" / "tiny_qwen2"


@pytest.fixture(scope="session")
def bpe():
    """The committed byte-level BPE; it adds no special tokens."""
    return AutoTokenizer.from_pretrained(TINY_QWEN2)


@pytest.fixture(scope="session")
def wordpiece():
    """A WordPiece that lowercases, reads a line break as a word and opens with <s>."""
    words = "[UNK] <s> a text : topic world news sport ##s ⏎".split()
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("\n", " ⏎ "), normalizers.BertNormalizer(lowercase=True)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.index("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=AddedToken("<s>"))


@pytest.fixture(scope="session")
def merging_bpe():
    """A character BPE without pre-tokenizer that merges ': ' and 's<line break>'."""
    pieces = [*map(chr, range(32, 127)), "\n", ": ", "s\n"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(":", " "), ("s", "\n")]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a checkpoint to a folder of that name, as `save_checkpoint`; returns its path."""

    def checkpoint(folder="base", config=None, weights=""):
        return save_checkpoint(tmp_path / folder, config, weights)

    return checkpoint
