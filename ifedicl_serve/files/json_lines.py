"""Files of JSON objects, one a line. Knows no columns and no types.

By Python's parser: pyarrow's ends the process at a line that is `null`, and takes a text that looks
like a date for one.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file; blank lines are none. Raises ValueError for a line that is another
    thing, UnicodeDecodeError for a file that is not UTF-8."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            # Files that begin with a mark are put one behind another.
            if (line := line.lstrip("\ufeff")).strip():
                yield _object(line, number)


def write_objects(file: TextIO, rows: Iterable[Mapping[str, object]]) -> None:
    """Append rows; what JSON has no type for (dates, bytes) becomes text."""
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is a {type(row).__name__}, expected one object per line")
    return row
