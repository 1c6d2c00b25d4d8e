"""How rows are carried from the input to the output, in tables.

Into Parquet and CSV as columns, each of one type. Into lines of JSON as texts of JSON, as each row
has keys and types of its own there, and is to come back as it went in.
"""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.json_lines import json_text
from ifedicl_serve.files.table_formats import Objects, TableFile, Tables
from ifedicl_serve.files.table_writers import ROW, writes_json
from ifedicl_serve.files.tables import SHOWN

LINES = 1000  # of JSON in a table


class Carried(Protocol):
    """Rows in tables of a schema."""

    @property
    def schema(self) -> pa.Schema: ...

    def tables(self, file: TableFile) -> Tables:
        """All rows of a file. Raises DataError for one that cannot be carried or classified."""
        ...

    def texts(self, table: pa.Table) -> list[str | None]:
        """What is to be classified, a text a row."""
        ...


@dataclass(frozen=True)
class AsColumns:
    """Each of one type, found by a look at the whole file."""

    text_column: str
    schema: pa.Schema

    @classmethod
    def of(cls, file: TableFile, text_column: str) -> "AsColumns":
        """Raises DataError for a column of texts that holds something else."""
        schema = file.schema()
        kind = schema.field(text_column).type
        values = kind.value_type if pa.types.is_dictionary(kind) else kind
        if values not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
            raise DataError(
                f"{file.path}: column {text_column!r} is {kind}, expected strings; name another "
                "with --text-column"
            )
        return cls(text_column, schema)

    def tables(self, file: TableFile) -> Tables:
        for table in file.tables(self.schema):
            table.validate(full=True)  # Parquet's strings may be anything
            yield table

    def texts(self, table: pa.Table) -> list[str | None]:
        return table.column(self.text_column).cast(pa.string()).to_pylist()


@dataclass(frozen=True)
class AsJson:
    """Each a JSON object in a column of texts."""

    text_column: str
    schema: pa.Schema = pa.schema([(ROW, pa.string())])

    def tables(self, file: TableFile) -> Tables:
        rows = (json_text(row) for row in self._checked(file))
        while texts := list(islice(rows, LINES)):
            yield pa.table([texts], schema=self.schema)

    def texts(self, table: pa.Table) -> list[str | None]:
        return [json.loads(row).get(self.text_column) for row in table.column(ROW).to_pylist()]

    def _checked(self, file: TableFile) -> Objects:
        for number, row in enumerate(file.objects(), start=1):
            text = row.get(self.text_column)
            if not isinstance(text, str | None):
                raise DataError(
                    f"{file.path}: row {number}: {self.text_column!r} is {repr(text)[:SHOWN]}, "
                    "expected a string; name another with --text-column"
                )
            yield row


def carried(file: TableFile, text_column: str, output: Path) -> Carried:
    """How a file's rows go into an output of that name. Raises DataError."""
    if writes_json(output):
        return AsJson(text_column)
    return AsColumns.of(file, text_column)
