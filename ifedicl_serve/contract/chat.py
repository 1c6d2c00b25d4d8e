"""A task's prompt in the format of a chat model: its tokenizer's chat template, rendered once.

What is kept are the written parts around the text, so that serving renders no template, and a task
does not change with one. Demonstrations are earlier turns.
"""

import re
from typing import Any

from jinja2 import TemplateError
from pydantic import ValidationError

from ifedicl_serve.contract.problem import first_problem
from ifedicl_serve.contract.prompt import PLACEHOLDER, PromptTemplate, Turns, split_template
from ifedicl_serve.errors import PromptError

# Stand for texts and labels, in turn, while the template is rendered: characters of private use,
# which no message holds and no template changes.
MARKS = "\ue000\ue001\ue002\ue003\ue004"


def chat_prompt(
    tokenizer: Any, user: str = PLACEHOLDER, system: str | None = None
) -> PromptTemplate:
    """The prompt that ends where the assistant's answer begins, and a label follows.

    `user` is the user's message with a place for the text; without `system` there is no system
    message but the template's own. Models that think answer at once. Raises PromptError.
    """
    split_template(user)
    if not tokenizer.chat_template:
        raise PromptError(
            "this model's tokenizer has no chat template; write the prompt with --template"
        )
    head, tail = _around(tokenizer, user, system, MARKS[:1])
    _, answered, separator = _around(tokenizer, user, system, MARKS[:2])
    first, earlier, later, again, asked, end = _around(tokenizer, user, system, MARKS)
    prefix = answered.removeprefix(tail) if answered.startswith(tail) else ""
    regular = (
        separator
        and later.startswith(separator)
        and asked.startswith(separator)
        and earlier == again
        and earlier.endswith(prefix)
        and end == tail
    )
    if not regular:
        raise PromptError(
            "this model's chat template writes a turn in another way the more there are, so "
            "demonstrations cannot be earlier turns; write the prompt with --template"
        )
    try:
        return PromptTemplate(
            head=head,
            tail=tail,
            label_prefix=prefix,
            separator=separator,
            turns=Turns(
                first=first,
                later=later.removeprefix(separator),
                asked=asked.removeprefix(separator),
                tail=earlier.removesuffix(prefix),
            ),
        )
    except ValidationError as error:
        raise first_problem(error) from error


def _around(tokenizer: Any, user: str, system: str | None, marks: str) -> list[str]:
    """The written parts of a conversation around its texts and labels, which are `marks` in turn;
    it asks for the label of the last text if that has none."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for number, mark in enumerate(marks):
        if number % 2:
            messages.append({"role": "assistant", "content": mark})
        else:
            messages.append({"role": "user", "content": user.replace(PLACEHOLDER, mark)})
    try:
        rendered = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=len(marks) % 2 == 1,
            enable_thinking=False,
        )
    except TemplateError as error:
        raise PromptError(
            f"this model's chat template takes no such conversation ({error}); where it takes no "
            "system message, put that into --user, or write the prompt with --template"
        ) from error
    parts = re.split(f"([{MARKS}])", rendered)
    if "".join(parts[1::2]) != marks:
        raise PromptError(
            "this model's chat template leaves messages out or says them twice; write the prompt "
            "with --template"
        )
    return parts[::2]
