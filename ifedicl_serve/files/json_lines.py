"""Files of JSON objects, one a line. Knows no columns and no types.

By Python's parser: pyarrow's ends the process at a line that is `null`, and takes a text that looks
like a date for one.
"""

import json
import math
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
    """Append rows."""
    for row in rows:
        file.write(json_text(row) + "\n")


def json_text(row: Mapping[str, object]) -> str:
    """An object in one line. What JSON has no type for (bytes, decimals) becomes text; what is no
    number, NaN and the infinities, null."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is a {type(row).__name__}, expected one object per line")
    return row
