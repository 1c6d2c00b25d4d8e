"""Tiny tokenizers of the chat families: each with its own kind of pipeline, its control tokens and
its makers' chat template (`chat_templates/`, without the parts on tools)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATES = Path(__file__).parent / "chat_templates"
WORDS = ("text", "topic", "news", "sports", "water", "bill", "the", "system", "user", "assistant")
LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Family:
    """What a family's checkpoints have in common. `end` ends a turn."""

    pipeline: str
    control: tuple[str, ...]
    end: str
    bos: str | None = None
    system: bool = True  # whether a conversation may have a system message
    words: tuple[str, ...] = ()  # that are tokens, and no control tokens


QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "llama3": Family(
        "bytes, numbers of three",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    "qwen2.5": Family("bytes", QWEN, end="<|im_end|>"),
    "qwen3": Family("bytes", QWEN, end="<|im_end|>", words=("<think>", "</think>")),
    "mistral": Family(
        "pieces, a space first", ("<s>", "</s>", "[INST]", "[/INST]"), end="</s>", bos="<s>"
    ),
    "gemma": Family(
        "pieces",
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        end="<end_of_turn>",
        bos="<bos>",
        system=False,
    ),
}


@lru_cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A family's tokenizer; the vocabulary is small, the pipeline its own."""
    family = FAMILIES[name]
    pipeline = _pieces(family) if family.pipeline.startswith("pieces") else _bytes(family)
    pipeline.add_tokens([AddedToken(word, normalized=False) for word in family.words])
    pipeline.add_special_tokens([AddedToken(one, normalized=False) for one in family.control])
    if family.bos:
        opened = [(family.bos, pipeline.token_to_id(family.bos))]
        pipeline.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=opened
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=pipeline,
        bos_token=family.bos,
        eos_token=family.end,
        chat_template=(CHAT_TEMPLATES / f"{name}.jinja").read_text(),
    )


def control_ids(name: str) -> set[int]:
    """The ids of a family's control tokens."""
    return set(tokenizer_of(name).convert_tokens_to_ids(list(FAMILIES[name].control)))


def _bytes(family: Family) -> Tokenizer:
    """Byte-level BPE, as LLaMA 3 and Qwen have it."""
    numbers = r"|\p{N}{1,3}" if family.pipeline.endswith("three") else r"|\p{N}"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(LETTERS + numbers + OTHERS), "isolated")
    by_byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, by_byte])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 2, trainer)
    return tokenizer


def _pieces(family: Family) -> Tokenizer:
    """BPE converted from SentencePiece, as Mistral and Gemma have it: control tokens are among its
    pieces."""
    merged = ["▁" + word for word in WORDS]
    merges = [(word[:end], word[end]) for word in merged for end in range(1, len(word))]
    pieces = ["<unk>", *family.control, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [*map(chr, range(33, 127)), *(left + right for left, right in merges)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    model = models.BPE(
        vocabulary, list(dict.fromkeys(merges)), unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    if family.pipeline.endswith("first"):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return tokenizer
