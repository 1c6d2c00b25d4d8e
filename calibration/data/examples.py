"""Labelled examples from files of rows.

This file knows texts and labels. It refuses to know formats, prompts, models and tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ifedicl_serve.contract.text import is_unicode
from ifedicl_serve.errors import DataError
from ifedicl_serve.files.tables import listed, open_table, refuse_missing, refuse_repeated

SHOWN = 200  # characters of a value in an error


@dataclass(frozen=True)
class Example:
    """A text and the name of its label."""

    text: str
    label: str


def read_examples(
    path: Path, text_column: str = "text", label_column: str = "label"
) -> list[Example]:
    """Read a file of labelled texts; labels become strings.

    The format goes by the suffix: .jsonl or .json (one object per line), .csv, .parquet.
    Raises DataError for a file, column, text or label that cannot be used.
    """
    rows = _read_values(path, (text_column, label_column))
    if not rows:
        raise DataError(f"{path}: has no rows; expected labelled examples")
    return [
        Example(_checked_text(text, path, row), _checked_label(label, path, row))
        for row, (text, label) in enumerate(rows, start=1)
    ]


def found_labels(examples: Sequence[Example]) -> list[str]:
    """The label names that occur, sorted."""
    return sorted({example.label for example in examples})


def check_labels(examples: Sequence[Example], labels: Sequence[str], source: str) -> None:
    """Raise DataError if an example's label is not among `labels`."""
    unknown = sorted({example.label for example in examples} - set(labels))
    if unknown:
        raise DataError(
            f"{source}: unknown label {listed(unknown)} (known: {listed(labels)}); add it to "
            "--labels or remove those rows"
        )


def split_held_out(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split into (train, held out), the same way for the same seed; both keep file order.

    Raises DataError unless `fraction` is within [0, 1).
    """
    if not 0 <= fraction < 1:
        raise DataError(f"held-out fraction is {fraction}, expected 0 or more and less than 1")
    count = round(len(examples) * fraction)
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    train = [example for row, example in enumerate(examples) if row not in chosen]
    return train, [example for row, example in enumerate(examples) if row in chosen]


def _read_values(path: Path, columns: Sequence[str]) -> list[tuple[object, ...]]:
    remedy = "name yours with --text-column and --label-column"
    with open_table(path) as table:
        names = table.names()
        if not names:
            return []
        refuse_repeated(path, columns, names)
        refuse_missing(path, columns, names, remedy)
        return list(table.values(columns))


def _checked_text(text: object, path: Path, row: int) -> str:
    if not isinstance(text, str) or not text.strip() or not is_unicode(text):
        raise DataError(f"{path}: row {row}: text is {_cut(text)}, expected a non-empty string")
    return text


def _checked_label(label: object, path: Path, row: int) -> str:
    unnamed = label is None or isinstance(label, dict | list | bytes) or label != label  # NaN
    if unnamed or str(label).strip() == "" or not is_unicode(str(label)):
        raise DataError(f"{path}: row {row}: label is {_cut(label)}, expected a label name")
    return str(label)


def _cut(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
