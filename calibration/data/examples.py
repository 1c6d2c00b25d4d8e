"""Labelled examples from JSONL, CSV and Parquet files.

This file knows file formats and columns. It refuses to know prompts, models and tokens.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet

from ifedicl_serve.contract.text import is_unicode
from ifedicl_serve.errors import DataError

NAMES_IN_ERROR = 20
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
    texts, labels = _read_columns(path, (text_column, label_column))
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
    """Split into (train, held out), the same way for the same seed; both keep file order.

    Raises DataError unless `fraction` is within [0, 1).
    """
    if not 0 <= fraction < 1:
        raise DataError(f"held-out fraction is {fraction}, expected 0 or more and less than 1")
    count = round(len(examples) * fraction)
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    train = [example for row, example in enumerate(examples) if row not in chosen]
    return train, [example for row, example in enumerate(examples) if row in chosen]


def _read_columns(path: Path, names: Sequence[str]) -> list[list[object]]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: unknown format {path.suffix!r} (known: {', '.join(READERS)}); rename or "
            "convert the file"
        )
    try:
        rows = reader(path)
        return [_column(rows, name, path) for name in names]
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"
        ) from error
    # Python's own, for values that Arrow can hold and Python cannot: dates of the year 300,000.
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{path}: not a valid {path.suffix} file: {error}") from error


@dataclass(frozen=True)
class _Rows:
    """A file's rows: the names of its columns, and the values of one."""

    names: list[str]
    column: Callable[[str], list[object]]


def _read_jsonl(path: Path) -> _Rows:
    """By Python's parser: pyarrow's ends the process at a line that is `null`, and takes a text
    that looks like a date for one."""
    rows = []
    for number, line in enumerate(_utf8(path).split(b"\n"), start=1):
        if line.strip():
            rows.append(_json_object(line, number))
    return _Rows(
        list(dict.fromkeys(name for row in rows for name in row)),
        lambda name: [row.get(name) for row in rows],
    )


def _json_object(line: bytes, number: int) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is a {type(row).__name__}, expected one object per line")
    return row


def _read_csv(path: Path) -> _Rows:
    # Every column as text: labels 0/1 or yes/no stay as written, and "" is an empty text.
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    raw = _utf8(path)
    header = pyarrow.csv.open_csv(pyarrow.BufferReader(raw), parse_options=options).schema.names
    table = pyarrow.csv.read_csv(
        pyarrow.BufferReader(raw),
        parse_options=options,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pyarrow.string() for name in header}
        ),
    )
    return _of_table(table)


def _read_parquet(path: Path) -> _Rows:
    return _of_table(pyarrow.parquet.read_table(path))


def _of_table(table: pyarrow.Table) -> _Rows:
    return _Rows(table.column_names, lambda name: table.column(name).to_pylist())


def _utf8(path: Path) -> bytes:
    raw = path.read_bytes()
    raw.decode("utf-8")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _column(rows: _Rows, name: str, path: Path) -> list[object]:
    if rows.names.count(name) > 1:
        raise DataError(
            f"{path}: has {rows.names.count(name)} columns {name!r}; rename all but one"
        )
    if not rows.names:
        return []
    if name not in rows.names:
        raise DataError(
            f"{path}: no column {name!r} (columns: {_listed(rows.names)}); name yours "
            "with --text-column and --label-column"
        )
    return rows.column(name)


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


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMES_IN_ERROR])
    rest = len(names) - NAMES_IN_ERROR
    return f"{shown} and {rest} more" if rest > 0 else shown


READERS: dict[str, Callable[[Path], _Rows]] = {  # by suffix
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
