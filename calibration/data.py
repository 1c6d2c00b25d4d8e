"""Labelled examples from JSONL, CSV and Parquet files, through pyarrow.

This file knows file formats and columns. It refuses to know prompts, models and tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from ifedicl_serve.errors import DataError

NAMES_IN_ERROR = 20


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
    table = _read_table(path)
    texts = _column(table, text_column, path)
    labels = _column(table, label_column, path)
    if not texts:
        raise DataError(f"{path}: has no rows; expected labelled examples")
    return [
        Example(_checked_text(text, path, row), _checked_label(label, path, row))
        for row, (text, label) in enumerate(zip(texts, labels, strict=True), start=1)
    ]


def found_labels(examples: Sequence[Example]) -> list[str]:
    """The label names that occur, sorted."""
    return sorted({example.label for example in examples})


def check_labels(examples: Sequence[Example], labels: Sequence[str], source: str) -> None:
    """Raise DataError if an example's label is not among `labels`."""
    unknown = sorted({example.label for example in examples} - set(labels))
    if unknown:
        raise DataError(
            f"{source}: unknown label {_listed(unknown)} (known: {_listed(labels)}); add it to "
            "--labels or remove those rows"
        )


def split_held_out(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split into (train, held out), the same way for the same seed; both keep file order."""
    count = round(len(examples) * fraction)
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    train = [example for row, example in enumerate(examples) if row not in chosen]
    return train, [example for row, example in enumerate(examples) if row in chosen]


def _read_table(path: Path) -> pyarrow.Table:
    readers = {
        ".jsonl": _read_jsonl,
        ".json": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": pyarrow.parquet.read_table,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: unknown format {path.suffix!r} (known: {', '.join(readers)}); rename or "
            "convert the file"
        )
    try:
        return reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"
        ) from error
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a valid {path.suffix} file: {error}") from error


def _read_jsonl(path: Path) -> pyarrow.Table:
    return pyarrow.json.read_json(pyarrow.BufferReader(_utf8(path)))


def _read_csv(path: Path) -> pyarrow.Table:
    # Every column as text: labels 0/1 or yes/no stay as written, and "" is an empty text.
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    raw = _utf8(path)
    header = pyarrow.csv.open_csv(pyarrow.BufferReader(raw), parse_options=options).schema.names
    return pyarrow.csv.read_csv(
        pyarrow.BufferReader(raw),
        parse_options=options,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pyarrow.string() for name in header}
        ),
    )


def _utf8(path: Path) -> bytes:
    raw = path.read_bytes()
    raw.decode("utf-8")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _column(table: pyarrow.Table, name: str, path: Path) -> list[object]:
    if name not in table.column_names:
        raise DataError(
            f"{path}: no column {name!r} (columns: {_listed(table.column_names)}); name yours "
            "with --text-column and --label-column"
        )
    return table.column(name).to_pylist()


def _checked_text(text: object, path: Path, row: int) -> str:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{path}: row {row}: text is {text!r}, expected a non-empty string")
    return text


def _checked_label(label: object, path: Path, row: int) -> str:
    if label is None or str(label).strip() == "":
        raise DataError(f"{path}: row {row}: label is {label!r}, expected a label name")
    return str(label)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMES_IN_ERROR])
    rest = len(names) - NAMES_IN_ERROR
    return f"{shown} and {rest} more" if rest > 0 else shown
