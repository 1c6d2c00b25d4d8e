"""Rows that are longer than the model reads."""

from pathlib import Path

import pytest

from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.model.lengths import fitting
from calibration.task import TaskDefinition
from ifedicl_serve.contract.tokens import Prompt, token_ids
from ifedicl_serve.errors import DataError

MOST = 40
FILE = Path("rows.csv")


def tokens(model: HookedModel, prompt: Prompt) -> int:
    return len(token_ids(model.tokenizer, prompt))


def demonstrated(model: HookedModel, task: TaskDefinition, text: str) -> int:
    """The most tokens that a text makes with a label behind it."""
    return max(tokens(model, task.demonstration(Example(text, name))) for name in task.names)


@pytest.fixture
def long(llama: HookedModel, task: TaskDefinition) -> Example:
    """The longest text of its kind that fits, and a word."""
    words = "a"
    while demonstrated(llama, task, words) <= MOST:
        words += " number"
    return Example(words, "water")


def test_case_4_the_first_row_that_is_too_long_is_named(
    llama: HookedModel, task: TaskDefinition, long: Example
) -> None:
    fits = Example(long.text.removesuffix(" number"), "energy")
    assert fitting([fits], FILE, task, llama.tokenizer, MOST, truncate=False) == [fits]
    room = MOST - task.label_room(llama.tokenizer)
    with pytest.raises(DataError) as error:
        fitting([fits, long, long], FILE, task, llama.tokenizer, MOST, truncate=False)
    assert str(error.value) == (
        f"rows.csv: row 2: its prompt has {room + 1} tokens, the model reads at most {room} before "
        "a label; shorten the text, leave the row out, or cut such texts with --truncate"
    )


@pytest.mark.parametrize("text", ["number " * 200, "x" * 3000, "🙂é" * 300, "日本" * 400])
def test_case_4_texts_are_cut_where_they_just_fit(
    llama: HookedModel, task: TaskDefinition, text: str
) -> None:
    row = Example(text, "water")
    (cut,) = fitting([row], FILE, task, llama.tokenizer, MOST, truncate=True)
    assert text.startswith(cut.text) and cut.label == "water"
    assert MOST - 3 <= demonstrated(llama, task, cut.text) <= MOST


def test_a_template_that_leaves_no_room_is_named(llama: HookedModel, task: TaskDefinition) -> None:
    row = Example("a text", "water")
    with pytest.raises(DataError, match="row 1: the template alone fills the 8 tokens"):
        fitting([row], FILE, task, llama.tokenizer, 8, truncate=True)
