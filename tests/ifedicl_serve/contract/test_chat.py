"""Prompts of each chat family are what its makers' chat template says, token for token."""

import pytest

from calibration.data.examples import Example
from calibration.task import TaskDefinition
from ifedicl_serve.contract.chat import chat_prompt
from ifedicl_serve.contract.prompt import PromptTemplate, tail_tokens, tokenized_labels
from ifedicl_serve.contract.spec import Label
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.errors import PromptError
from tests.calibration.families import FAMILIES, control_ids, tokenizer_of

USER, SYSTEM = "Text: {text}\nTopic?", "Answer with the topic."
LABELS = tuple(Label(name=one, verbalization=one) for one in ("news", "news bill", "sports"))
SHOWN = [Example("the water", "news"), Example("user 12345", "sports"), Example("a", "news bill")]
everyone = pytest.mark.parametrize("name", FAMILIES)
with_and_without_system = pytest.mark.parametrize(
    ("name", "system"),
    [
        (name, system)
        for name, family in FAMILIES.items()
        for system in ((None, SYSTEM) if family.system else (None,))
    ],
)


def said(system, *rest):
    """A conversation in which the user speaks first."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for number, content in enumerate(rest):
        role = "assistant" if number % 2 else "user"
        messages.append({"role": role, "content": content})
    return messages


def templated(name, messages):
    """Its tokens, as Hugging Face makes them."""
    return tokenizer_of(name).apply_chat_template(
        messages,
        add_generation_prompt=messages[-1]["role"] == "user",
        enable_thinking=False,
        return_dict=False,
    )


def asked(text):
    return USER.replace("{text}", text)


@with_and_without_system
def test_a_prompt_is_what_the_chat_template_says(name, system):
    tokenizer = tokenizer_of(name)
    prompt = chat_prompt(tokenizer, USER, system)
    for text in ("the water", "news 2026", "<b> no control"):
        ids = token_ids(tokenizer, prompt.render(text))
        assert ids == templated(name, said(system, asked(text)))


@with_and_without_system
def test_demonstrations_are_earlier_turns(name, system):
    tokenizer = tokenizer_of(name)
    task = TaskDefinition("topics", chat_prompt(tokenizer, USER, system), LABELS)
    for shown in (SHOWN[:1], SHOWN):
        turns = [part for one in shown for part in (asked(one.text), one.label)]
        conversation = said(system, *turns, asked("the bill"))
        prompt = task.few_shot_prompt(shown, "the bill")
        assert token_ids(tokenizer, prompt) == templated(name, conversation)
        assert str(prompt).startswith(str(task.demonstration(shown[0])))


@everyone
def test_a_label_continues_the_prompt_as_an_answer_does_and_ends_where_a_turn_ends(name):
    tokenizer = tokenizer_of(name)
    prompt = chat_prompt(tokenizer, USER)
    words = [label.verbalization for label in LABELS]
    for word, tokens in zip(words, tokenized_labels(tokenizer, prompt, words), strict=True):
        answered = token_ids(tokenizer, prompt.render("the water")) + list(tokens)
        whole = templated(name, said(None, asked("the water"), word))
        assert whole[: len(answered)] == answered
        assert tokenizer.convert_ids_to_tokens(answered[-1]) == FAMILIES[name].end


@everyone
def test_the_tail_is_all_that_stands_behind_the_text(name):
    tokenizer = tokenizer_of(name)
    prompt = chat_prompt(tokenizer, "{text}")
    ids = token_ids(tokenizer, prompt.render("the water"))
    assert tokenizer.decode(ids[-tail_tokens(tokenizer, prompt) :]).strip() == prompt.tail.strip()


@everyone
@pytest.mark.parametrize("written", ["plain", "chat", "BOS in the template"])
def test_a_prompt_begins_with_one_bos_where_the_model_wants_one(name, written):
    tokenizer, bos = tokenizer_of(name), FAMILIES[name].bos
    prompt = {
        "plain": PromptTemplate.of("Text: {text}\nTopic:"),
        "chat": chat_prompt(tokenizer, USER),
        "BOS in the template": PromptTemplate.of(f"{bos or ''}Text: {{text}}\nTopic:"),
    }[written]
    tokens = tokenizer.convert_ids_to_tokens(token_ids(tokenizer, prompt.render("the water")))
    assert tokens.count(bos) == (bos is not None)
    assert bos is None or tokens[0] == bos


def test_a_model_that_thinks_answers_at_once_and_its_earlier_turns_did_not_think():
    prompt = chat_prompt(tokenizer_of("qwen3"), "{text}")
    assert prompt.tail == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert prompt.turns.tail == "<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.label_prefix == ""


def test_a_label_follows_after_a_space_where_the_chat_template_has_one():
    prompt = chat_prompt(tokenizer_of("mistral"), "{text}", SYSTEM)
    assert (prompt.head, prompt.tail) == (f"<s>[INST] {SYSTEM}\n\n", "[/INST]")
    assert (prompt.label_prefix, prompt.separator) == (" ", "</s>")


@pytest.mark.parametrize(
    ("name", "template", "separator"),
    [
        (
            "qwen3",
            "<|im_start|>user\nText: {text}\nTopic?<|im_end|>\n<|im_start|>assistant\n"
            "<think>\n\n</think>\n\n",
            "<|im_end|>\n",
        ),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nText: {text}\nTopic?"
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>",
        ),
    ],
)
def test_a_template_may_be_written_out_white_space_at_its_end_included(name, template, separator):
    tokenizer = tokenizer_of(name)
    written = PromptTemplate.of(template, separator)
    rendered = chat_prompt(tokenizer, USER)
    assert written == rendered.model_copy(update={"turns": None})
    assert token_ids(tokenizer, written.render("a")) == token_ids(tokenizer, rendered.render("a"))


@everyone
def test_a_text_cannot_end_its_turn(name):
    """Its control tokens are ordinary text, and all of it is read."""
    tokenizer, control = tokenizer_of(name), control_ids(name)
    prompt = chat_prompt(tokenizer, USER)
    text = "hi " + "".join(FAMILIES[name].control) + " say " + " ".join(FAMILIES[name].control)
    hostile = token_ids(tokenizer, prompt.render(text))
    harmless = token_ids(tokenizer, prompt.render("hi"))
    assert [i for i in hostile if i in control] == [i for i in harmless if i in control]
    assert text in tokenizer.decode(hostile)


def test_a_system_message_that_the_chat_template_does_not_take_is_refused():
    with pytest.raises(PromptError) as caught:
        chat_prompt(tokenizer_of("gemma"), USER, SYSTEM)
    assert str(caught.value) == (
        "this model's chat template takes no such conversation (System role not supported); where "
        "it takes no system message, put that into --user, or write the prompt with --template"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ messages[0].content }}", "leaves messages out"),
        ("{% for m in messages %}{{ m.content * 2 }}{% endfor %}", "says them twice"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "demonstrations cannot be"),
        ("{% for m in messages %}{{ loop.index ~ m.content }}\n{% endfor %}", "the more there are"),
    ],
)
def test_a_chat_template_that_makes_no_prompt_is_refused(monkeypatch, template, message):
    tokenizer = tokenizer_of("qwen2.5")
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(PromptError, match=message):
        chat_prompt(tokenizer, USER)


def test_the_users_message_has_one_place_for_the_text():
    with pytest.raises(PromptError, match="has 0 placeholders"):
        chat_prompt(tokenizer_of("qwen2.5"), "Topic?")
