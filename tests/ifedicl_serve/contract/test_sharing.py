"""Which tasks compute a text once, and whose heads only nearly are one."""

import pytest

from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.sharing import head_digest, sharing_of
from tests.ifedicl_serve.factory import NOTHING_ADAPTED, make_spec


def spec(head, name="task", **changes):
    """A task that adapts nothing."""
    prompt = PromptTemplate.of(head + "{text}\nIs:")
    return make_spec(name=name, prompt=prompt, **(NOTHING_ADAPTED | changes))


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Text: ", "News: ", True),
        ("Text: ", "Text:  ", True),
        ("Text: ", "TEXT:\n", True),
        ("Text: ", "", True),
        ("Read this. Text: ", "Read this. News: ", True),
        ("Read it now. Text: ", "Read now. Text: ", True),
        ("Read this. Text: ", "Text: ", False),
        ("Read this. Text: ", "Read all. News: ", False),
        ("", "Read this. ", False),
    ],
)
def test_heads_are_near_but_for_one_word_white_space_and_case(one, other, near):
    for pair in ((one, other), (other, one)):
        assert sharing_of([spec(head) for head in pair]).near == ([pair] if near else [])


def test_tasks_are_told_by_head_in_their_order_unless_they_adapt_the_text():
    whole = {"layers": (2,), "tensors": ("coefficients", "context_vector"), "sites": ("attn",)}
    tasks = [
        spec("Text: ", "b"),
        spec("Text: ", "all", **whole),
        spec("A letter: ", "c", **whole, extent="tail"),
        spec("Text: ", "a"),
    ]
    assert sharing_of(tasks) == ({"Text: ": ["b", "a"], "A letter: ": ["c"]}, [], ["all"])


def test_the_digest_is_of_the_head_alone():
    one, same, other = spec("Text: "), make_spec(prompt=PromptTemplate.of("Text: {text}")), spec("")
    assert head_digest(one.prompt) == head_digest(same.prompt) != head_digest(other.prompt)
