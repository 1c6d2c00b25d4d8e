"""What pydantic finds wrong with a template or label, told as we tell errors."""

from pydantic import ValidationError

from ifedicl_serve.errors import PromptError


def first_problem(error: ValidationError) -> PromptError:
    """The first of them, with the field's name and what it holds, unless one of our own validators
    has said so."""
    problem = error.errors(include_url=False)[0]
    message, field = problem["msg"], ".".join(map(str, problem["loc"]))
    if problem["type"] == "value_error":
        return PromptError(message.removeprefix("Value error, "))
    held = f" is {problem['input']!r}" if isinstance(problem["input"], str) else ""
    return PromptError(f"{field}{held}: {message}")
