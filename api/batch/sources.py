"""Input files as chunks of rows: a fixed number each, however the file is laid out.

Nothing is held but the chunk that is read. A file is looked at once before it is classified, so
that one which cannot be read to its end is refused before hours were spent on its beginning.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ifedicl_serve.errors import DataError

LINES = 1000  # of JSON read at once
SHOWN = 200  # characters of a value in an error
CSV_BLOCK_BYTES = 1 << 20  # a row may have as many; pyarrow reads dozens of blocks ahead

Batches = Iterator[pa.Table]


@dataclass(frozen=True)
class Source:
    """A file that was read once: its columns, number of rows and content."""

    path: Path
    schema: pa.Schema
    rows: int
    sha256: str
    read: Callable[[Path, pa.Schema], Batches]

    def chunks(self, size: int, skip: int) -> Batches:
        """Tables of `size` rows, the last one smaller; the first `skip` are left out."""
        return islice(_rechunked(self.read(self.path, self.schema), self.schema, size), skip, None)

    def count(self, size: int) -> int:
        """How many chunks of that size there are."""
        return -(-self.rows // size)


def open_source(path: Path) -> Source:
    """Look at a .parquet, .csv, .jsonl or .json file (JSON: one object per line).

    Raises DataError for one that cannot be read to its end.
    """
    formats: dict[str, tuple[Callable[[Path], tuple[pa.Schema, int]], Any]] = {
        ".parquet": (_look_at_parquet, _read_parquet),
        ".csv": (_look_at_csv, _read_csv),
        ".jsonl": (_look_at_json, _read_json),
        ".json": (_look_at_json, _read_json),
    }
    if path.suffix.lower() not in formats:
        raise DataError(
            f"{path}: unknown format {path.suffix!r} (known: {', '.join(formats)}); rename or "
            "convert the file"
        )
    look, read = formats[path.suffix.lower()]
    try:
        schema, rows = look(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except UnicodeEncodeError as error:  # "\\ud800" in JSON
        raise DataError(
            f"{path}: {error.object[:SHOWN]!r} holds half of a surrogate pair, expected Unicode "
            "text; write both halves or leave it out"
        ) from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a valid {path.suffix} file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"{path}: columns repeat: {', '.join(schema.names)}; rename them")
    return Source(path, schema, rows, sha256, read)


def _rechunked(tables: Iterable[pa.Table], schema: pa.Schema, size: int) -> Batches:
    held = schema.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= size:
            yield held.slice(0, size)
            held = held.slice(size)
    if len(held):
        yield held


def _look_at_parquet(path: Path) -> tuple[pa.Schema, int]:
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.schema_arrow, file.metadata.num_rows


def _read_parquet(path: Path, schema: pa.Schema) -> Batches:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield pa.Table.from_batches([batch], schema)


def _look_at_csv(path: Path) -> tuple[pa.Schema, int]:
    with _csv_reader(path, []) as reader:
        names = reader.schema.names
    schema = pa.schema([(name, pa.string()) for name in names])
    return schema, sum(len(table) for table in _read_csv(path, schema))


def _read_csv(path: Path, schema: pa.Schema) -> Batches:
    with _csv_reader(path, schema.names) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _csv_reader(path: Path, names: list[str]) -> Any:
    """Every column as text: values stay as written, and "" is an empty text."""
    return pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in names}
        ),
    )


def _look_at_json(path: Path) -> tuple[pa.Schema, int]:
    """The columns that all lines have between them, with types that fit them all."""
    schema, count = pa.schema([]), 0
    for rows in _json_rows(path):
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: _typed([row.get(name) for row in rows], name, path) for name in names}
        try:
            schema = pa.unify_schemas(
                [schema, pa.table(columns).schema], promote_options="permissive"
            )
        except pa.ArrowTypeError as error:
            raise DataError(f"{path}: values of one column differ in type: {error}") from error
        count += len(rows)
    return schema, count


def _typed(values: list[Any], name: str, path: Path) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(
            f"{path}: column {name!r} has values that differ in type: {error}; make them alike, "
            "e.g. all strings"
        ) from error


def _read_json(path: Path, schema: pa.Schema) -> Batches:
    for rows in _json_rows(path):
        yield pa.Table.from_pylist(rows, schema)


def _json_rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Up to LINES objects at a time; blank lines are none."""
    with path.open(encoding="utf-8-sig") as file:
        numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        while lines := list(islice(numbered, LINES)):
            yield [_json_object(line, number, path) for number, line in lines]


def _json_object(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DataError(f"{path}: line {number} is not a JSON object; write one per line")
    return value
