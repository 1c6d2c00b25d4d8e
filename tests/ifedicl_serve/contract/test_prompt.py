"""Prompts and label tokens under tokenizers of different kinds."""

import pytest
from pydantic import ValidationError

from ifedicl_serve.contract.labels import TrieNode
from ifedicl_serve.contract.prompt import (
    PromptTemplate,
    label_tokens,
    label_trie,
    tail_tokens,
)
from ifedicl_serve.contract.tokens import Prompt, token_ids
from ifedicl_serve.errors import PromptError

TOPIC = PromptTemplate.of("Text: {text}\nTopic:")
HEAD = TOPIC.render("a")


def pieces(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(list(ids))


def test_a_text_is_put_into_the_template():
    assert str(TOPIC.render("it rains")) == "Text: it rains\nTopic:"


def test_a_text_that_names_the_placeholder_is_not_expanded():
    assert str(TOPIC.render("{text} {0}")) == "Text: {text} {0}\nTopic:"


def test_a_demonstration_is_prompt_label_and_separator():
    prompt = TOPIC.render_demonstration("it rains", "news")
    assert str(prompt) == "Text: it rains\nTopic: news\n\n"


@pytest.mark.parametrize(("template", "count"), [("Review:", 0), ("{text} and {text}:", 2)])
def test_a_template_needs_exactly_one_placeholder(template, count):
    with pytest.raises(PromptError) as caught:
        PromptTemplate.of(template)
    assert str(caught.value) == (
        f"template {template!r} has {count} placeholders {{text}}, expected exactly one; write "
        "e.g. 'Text: {text}\\nTopic:'"
    )


def test_a_label_may_follow_directly():
    chat = PromptTemplate(head="", tail="\nTopic: ", label_prefix="")
    assert str(chat.render_demonstration("it rains", "news")) == "it rains\nTopic: news\n\n"


def test_the_tail_has_as_many_tokens_whatever_the_text(bpe):
    assert tail_tokens(bpe, TOPIC) == len(token_ids(bpe, Prompt(("\nTopic:",))))
    assert tail_tokens(bpe, PromptTemplate.of("Text: {text}")) == 0


@pytest.mark.parametrize("separator", ["", "x" * 101])
def test_a_separator_must_be_there_and_short(separator):
    with pytest.raises(ValidationError, match="separator"):
        PromptTemplate.of("{text}:", separator=separator)


def test_bpe_label_tokens_hold_the_space_and_end_in_the_separator(bpe):
    tokens = label_tokens(bpe, HEAD, "sports", "\n\n")
    assert pieces(bpe, tokens) == ["Ġsports", "ĊĊ"]


def test_bpe_label_of_two_words(bpe):
    tokens = label_tokens(bpe, HEAD, "world news", "\n\n")
    assert pieces(bpe, tokens) == ["Ġworld", "Ġnews", "ĊĊ"]


def test_wordpiece_label_tokens_have_no_special_token(wordpiece):
    tokens = label_tokens(wordpiece, HEAD, "Sports", "\n\n")
    assert pieces(wordpiece, tokens) == ["sport", "##s", "⏎"]


@pytest.mark.parametrize("name", ["bpe", "wordpiece"])
@pytest.mark.parametrize("label", ["sports", "world news", "1", "=A"])
def test_prompt_and_label_tokens_join_to_the_tokens_of_the_demonstration(name, label, request):
    """What is scored token by token in serving is what a demonstration reads as."""
    tokenizer = request.getfixturevalue(name)
    joined = token_ids(tokenizer, HEAD) + list(label_tokens(tokenizer, HEAD, label, "\n"))
    assert joined == token_ids(tokenizer, HEAD + Prompt((f" {label}\n",)))


def test_label_tokens_do_not_depend_on_the_text(bpe):
    for text in ("a", "It rained.", "¿Qué?", "42", "tail "):
        assert label_tokens(bpe, TOPIC.render(text), "sports", "\n\n") == label_tokens(
            bpe, HEAD, "sports", "\n\n"
        )


def test_labels_with_a_shared_first_word_make_an_inner_node(bpe):
    trie = label_trie(bpe, TOPIC, ["world news", "world sports", "business"])
    world, news, sports, business = bpe(" world news sports business").input_ids
    assert trie.labels == ("world news", "world sports", "business")
    assert trie.nodes == (TrieNode((), (world, business)), TrieNode((world,), (news, sports)))


def test_a_label_that_is_the_start_of_another_ends_in_the_separator(bpe):
    trie = label_trie(bpe, TOPIC, ["world", "world news"])
    world, news = bpe(" world news").input_ids
    (end,) = bpe("\n\n").input_ids
    assert trie.nodes == (TrieNode((world,), (end, news)),)


def test_labels_unknown_to_the_tokenizer_collide(wordpiece):
    with pytest.raises(PromptError, match="labels 'cats' and 'dogs' have the same tokens"):
        label_trie(wordpiece, TOPIC, ["cats", "dogs"])


def test_labels_that_differ_in_case_alone_collide_in_an_uncased_tokenizer(wordpiece):
    with pytest.raises(PromptError, match="labels 'News' and 'news' have the same tokens"):
        label_trie(wordpiece, TOPIC, ["News", "news"])


def test_a_label_that_merges_with_the_prompt_is_refused(merging_bpe):
    with pytest.raises(PromptError) as caught:
        label_trie(merging_bpe, TOPIC, ["sport", "new"])
    assert str(caught.value) == (
        f"label 'sport' does not tokenise apart from the prompt {str(HEAD)!r}: end the template "
        "with a word or punctuation mark, and start the label with a letter"
    )


def test_a_label_that_adds_no_token_is_refused(wordpiece):
    with pytest.raises(PromptError, match="does not tokenise apart from the prompt"):
        label_tokens(wordpiece, HEAD, "\u200b", "\n")


def test_a_label_that_merges_with_the_separator_is_refused(merging_bpe):
    template = PromptTemplate.of("{text} =", separator="\n")
    with pytest.raises(PromptError) as caught:
        label_trie(merging_bpe, template, ["news", "sport"])
    assert str(caught.value) == (
        "label 'news' merges with the separator '\\n' in this tokenizer; choose another "
        "separator, e.g. a newline"
    )


def test_a_separator_that_adds_no_token_is_refused(wordpiece):
    with pytest.raises(PromptError, match="label 'news' merges with the separator ' '"):
        label_tokens(wordpiece, HEAD, "news", " ")
