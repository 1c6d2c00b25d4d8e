"""Texts cut to the context, with every kind of tokenizer that vLLM may load."""

import pytest
from transformers import ByT5Tokenizer

from api.classify.encoder import PromptEncoder
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.errors import ModelError, TextTooLongError

MAX_LEN = 144
TEXTS = {
    "words": "where is my card? " * 50,
    "characters of several tokens": "\U00013000" * 60,
    "one long word": "donaudampfschifffahrt" * 30,
    "words, then characters of several tokens": "good " * 120 + "\U00013000" * 20,
    "spaces": "word" + " " * 300 + "x",
    "control tokens, which are letters here": "<|endoftext|> " * 60,
}


@pytest.fixture
def encoder(tokenizer):
    return PromptEncoder(tokenizer, MAX_LEN)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", ["sst2", "topics"])
def test_the_longest_beginning_that_fits_is_kept(registry, tokenizer, encoder, name, text):
    task = registry.get(name)
    limit = MAX_LEN - max(len(node.path) for node in task.trie.nodes)

    def prompt(end):
        return token_ids(tokenizer, task.spec.prompt.render(text[:end]))

    ids, short = (encoder.encode(task, one, True) for one in (text, "fits"))
    end = next(end for end in range(len(text), 0, -1) if prompt(end) == ids)
    assert len(ids) <= limit < len(prompt(len(text)))
    assert len(prompt(end + 1)) > limit - 4  # a character may be four tokens
    assert encoder.encode_all(task, [text, "fits"], True) == [ids, short]


def test_a_template_that_fills_the_context_is_told(registry, tokenizer):
    with pytest.raises(TextTooLongError, match="the task's template alone fills"):
        PromptEncoder(tokenizer, 4).encode(registry.get("sst2"), "some words of text", True)


class OfMistral:
    """As vLLM's tokenizer of Mistral's own format: it takes a text and `add_special_tokens`."""


@pytest.mark.parametrize("other", [ByT5Tokenizer(), OfMistral()], ids=["python", "mistral"])
def test_a_tokenizer_that_tells_no_offsets_is_refused_at_the_start_not_at_the_first_long_text(
    other,
):
    with pytest.raises(ModelError, match="is not one of the fast tokenizers"):
        PromptEncoder(other, MAX_LEN)
