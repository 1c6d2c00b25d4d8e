"""Rows whose prompts are longer than the model reads: found before anything is computed, or cut."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.data.examples import Example
from calibration.task import TaskDefinition
from ifedicl_serve.contract.tokens import token_ids
from ifedicl_serve.errors import DataError


def fitting(
    rows: Sequence[Example],
    source: Path,
    task: TaskDefinition,
    tokenizer: Any,
    max_tokens: int,
    truncate: bool,
) -> list[Example]:
    """The rows of a file, each of which fits into `max_tokens` as a demonstration of any label.

    Raises DataError that names the first row that does not, unless `truncate`, which cuts its text
    at the end.
    """
    room = max_tokens - task.label_room(tokenizer)

    def surplus(text: str) -> int:
        return len(token_ids(tokenizer, task.prompt.render(text))) - room

    fitted = []
    for number, row in enumerate(rows, start=1):
        if (over := surplus(row.text)) > 0:
            if not truncate:
                raise DataError(
                    f"{source}: row {number}: its prompt has {room + over} tokens, the model reads "
                    f"at most {room} before a label; shorten the text, leave the row out, or cut "
                    "such texts with --truncate"
                )
            # The first length that is too long; more text has more tokens, give or take a merge.
            end = bisect_left(range(len(row.text)), True, key=lambda n: surplus(row.text[:n]) > 0)
            row = replace(row, text=row.text[: max(end - 1, 0)])
            if not row.text.strip():
                raise DataError(
                    f"{source}: row {number}: the template alone fills the {max_tokens} tokens "
                    "that the model reads; shorten it"
                )
        fitted.append(row)
    return fitted
