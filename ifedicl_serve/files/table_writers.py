"""Files of rows written table by table, in the format that their suffix names."""

import tempfile
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.json_lines import json_text
from ifedicl_serve.files.tables import format_of

BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
ROW = "row"  # the column of JSON texts that `JsonLinesWriter` takes


class JsonLinesWriter:
    """Objects of JSON, one a line; as pyarrow's writers, a context manager with `write_table`.

    A row's own names and values are those of the object that stands in its column `ROW` as
    `json_text` writes it; the other columns come behind them.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.file = path.open("w", encoding="utf-8")

    def write_table(self, table: pa.Table) -> None:
        """Append all rows."""
        rows = table.column(ROW).to_pylist()
        for row, more in zip(rows, table.drop_columns([ROW]).to_pylist(), strict=True):
            self.file.write(_joined(row, json_text(more)) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


class CsvWriter:
    """pyarrow's, and views of strings, which that does not know."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = pa.schema([(field.name, _held(field)) for field in schema])
        self.writer = pyarrow.csv.CSVWriter(path, self.schema)

    def write_table(self, table: pa.Table) -> None:
        """Append all rows."""
        self.writer.write_table(table.cast(self.schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()


WRITERS: dict[str, Any] = {  # by suffix
    ".parquet": pyarrow.parquet.ParquetWriter,
    ".csv": CsvWriter,
    ".jsonl": JsonLinesWriter,
    ".json": JsonLinesWriter,
}


def writer_of(output: Path) -> Any:
    """What writes such a file: called with a path and a schema. Raises DataError for none."""
    return format_of(output, WRITERS, "choose one of these")


def writes_json(output: Path) -> bool:
    """Whether its writer takes rows as texts of JSON. Raises DataError for no writer."""
    return writer_of(output) is JsonLinesWriter


def refuse_unwritable(output: Path, schema: pa.Schema) -> None:
    """Raise DataError if the format cannot hold a column, e.g. lists or bytes in CSV."""
    writer = writer_of(output)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with writer(Path(folder) / "empty", schema) as file:
                file.write_table(schema.empty_table())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{output}: {output.suffix} cannot hold the input's columns ({error}); choose "
                "another format"
            ) from error


def _held(field: pa.Field) -> pa.DataType:
    """The type that CSV has a column as. Raises ArrowNotImplementedError for one of bytes, which
    pyarrow refuses only when it comes upon some that are no text."""
    kind = field.type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if any(is_bytes(values) for is_bytes in BYTES):
        raise pa.ArrowNotImplementedError(
            f"column {field.name!r} is {kind}, and bytes need not be text"
        )
    return pa.string() if pa.types.is_string_view(kind) else kind


def _joined(one: str, other: str) -> str:
    """The text of an object with the names of both; `other` has some."""
    return other if one == "{}" else f"{one[:-1]}, {other[1:]}"
