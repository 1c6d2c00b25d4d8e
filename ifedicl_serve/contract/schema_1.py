"""`task.json` of schema 1, of releases before the ladder, in the words of the present one.

Such a task has coefficients alone, adapts all tokens, and its labels follow after a space; its
answers are what they were. Delete when no such artifact is in use.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import COEFFICIENTS, SCHEMA_VERSION

NEWER = {"extent", "tensors"}


class PromptOf1(BaseModel):
    """The template as one text."""

    model_config = ConfigDict(extra="forbid")

    template: Annotated[str, Field(max_length=20_000)]
    separator: str = "\n\n"


class TaskOf1(BaseModel):
    """Of its fields those that have changed since; the others are checked as the present ones."""

    model_config = ConfigDict(extra="allow")

    prompt: PromptOf1

    @model_validator(mode="after")
    def _is_not_newer(self) -> "TaskOf1":
        newer = sorted(NEWER & (self.model_extra or {}).keys())
        if newer:
            raise ValueError(
                f"{', '.join(newer)} are not of schema 1; write schema {SCHEMA_VERSION}"
            )
        return self


def upgraded(task: dict[str, Any]) -> dict[str, Any]:
    """The same task in the present schema, its values yet to be checked.

    Raises ValidationError for a prompt that is none, and PromptError for a template without
    exactly one place for the text.
    """
    prompt = TaskOf1.model_validate(task).prompt
    written = PromptTemplate.of(prompt.template, prompt.separator)
    return task | {
        "schema_version": SCHEMA_VERSION,
        "prompt": written.model_dump() | {"label_prefix": " "},  # whatever the template ends in
        "tensors": sorted(COEFFICIENTS),
    }
