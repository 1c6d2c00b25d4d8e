"""Make `tiny_qwen2/`: a Qwen2ForCausalLM with random weights, for tests of a second architecture.

It knows nothing about language. Its weights are larger than a usual initialisation, so that label
probabilities differ. transformers insists on Qwen's byte-level BPE for this architecture
(MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS), so a small one is trained on the OpenStax texts.

    python examples/make_tiny_qwen2.py --corpus DIR
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from lm.corpus import OPENSTAX, documents
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

HERE = Path(__file__).resolve().parent


def train_tokenizer(corpus: Path, pieces: int) -> Qwen2Tokenizer:
    """A Qwen2 tokenizer of `pieces` byte-level pieces."""
    texts = itertools.islice(documents(corpus, OPENSTAX), 1000)
    return Qwen2Tokenizer().train_new_from_iterator(texts, vocab_size=pieces)


def tiny_config(vocab_size: int, pad_token_id: int) -> Qwen2Config:
    """4 layers, width 128, 2 heads of 64 (vLLM's CPU attention wants 64), scale 0.1."""
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        tie_word_embeddings=True,
        pad_token_id=pad_token_id,
        bos_token_id=None,
        eos_token_id=pad_token_id,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "tiny_qwen2")
    parser.add_argument("--pieces", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = train_tokenizer(args.corpus, args.pieces)
    torch.manual_seed(args.seed)
    model = Qwen2ForCausalLM(tiny_config(len(tokenizer), tokenizer.pad_token_id))
    model.bfloat16()
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {model.num_parameters():,} random parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
