"""Files of rows: .parquet, .csv, and .jsonl or .json (one object per line).

Opens them by their suffix and says what is wrong with them. Refuses to know what rows are for.
"""

import errno
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.reading import not_utf8_at
from ifedicl_serve.files.table_formats import FORMATS, TableFile

NAMES_IN_ERROR = 20
SHOWN = 200  # characters of a value in an error

T = TypeVar("T")


@contextmanager
def open_table(path: Path) -> Iterator[TableFile]:
    """The file in the format of its suffix, for the body to read.

    Raises DataError for an unknown format, and for all that the body finds wrong in the file.
    """
    table = format_of(path, FORMATS, "rename or convert the file")(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe can be read once, then waits for ever
            raise OSError(errno.EINVAL, "not a regular file")
        yield table
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeEncodeError as error:  # "\\ud800" in JSON
        raise DataError(
            f"{path}: {error.object[:SHOWN]!r} holds half of a surrogate pair, expected Unicode "
            "text; write both halves or leave it out"
        ) from error
    # Python's own, for values that Arrow can hold and Python cannot: dates of the year 300,000.
    except (pa.ArrowException, ValueError, OverflowError, RecursionError) as error:
        if table.is_text and (byte := not_utf8_at(path)) is not None:
            raise DataError(f"{path}: not UTF-8 at byte {byte}; save the file as UTF-8") from error
        raise DataError(f"{path}: not a valid {path.suffix} file: {error}") from error


def format_of(path: Path, formats: Mapping[str, T], remedy: str) -> T:
    """What stands for the suffix of `path`. Raises DataError if nothing does."""
    if path.suffix.lower() not in formats:
        raise DataError(
            f"{path}: unknown format {path.suffix!r} (known: {', '.join(formats)}); {remedy}"
        )
    return formats[path.suffix.lower()]


def refuse_missing(path: Path, wanted: Iterable[str], names: Sequence[str], remedy: str) -> None:
    """Raise DataError if one of the columns wanted is none of the file's."""
    for name in wanted:
        if name not in names:
            raise DataError(f"{path}: no column {name!r} (columns: {listed(names)}); {remedy}")


def refuse_repeated(path: Path, wanted: Iterable[str], names: Sequence[str]) -> None:
    """Raise DataError if one of the columns wanted is more than one of the file's."""
    counts = Counter(names)
    for name in wanted:
        if counts[name] > 1:
            raise DataError(f"{path}: has {counts[name]} columns {name!r}; rename all but one")


def listed(names: Sequence[str]) -> str:
    """Names in an error: not all of them, if they are many."""
    shown = ", ".join(map(repr, names[:NAMES_IN_ERROR])) or "none"
    rest = len(names) - NAMES_IN_ERROR
    return f"{shown} and {rest} more" if rest > 0 else shown
