"""How a file of rows is read, format by format: never whole, and as often as one likes.

Errors come out as Python and pyarrow raise them; `tables` makes them DataErrors.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.json_lines import read_objects

LINES = 1000  # of JSON read at once
CSV_BLOCK_BYTES = 1 << 20  # a row may have as many; pyarrow reads dozens of blocks ahead

Tables = Iterator[pa.Table]
Values = Iterator[tuple[object, ...]]


@dataclass(frozen=True)
class TableFile(ABC):
    """A file of rows."""

    is_text: ClassVar[bool]
    path: Path

    @abstractmethod
    def names(self) -> list[str]:
        """Its columns, those that repeat as often as they do."""

    @abstractmethod
    def values(self, names: Sequence[str]) -> Values:
        """Every row's own values in columns that do not repeat, of whatever type each has."""

    @abstractmethod
    def look(self) -> tuple[pa.Schema, int]:
        """Its columns with a type each, and how many rows it has."""

    @abstractmethod
    def tables(self, schema: pa.Schema) -> Tables:
        """All rows, in tables of the schema that `look` found."""


class ParquetTable(TableFile):
    """Typed columns, read by row groups."""

    is_text = False

    def names(self) -> list[str]:
        return self.look()[0].names

    def values(self, names: Sequence[str]) -> Values:
        with pyarrow.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(columns=sorted(set(names))):
                yield from _values(batch, names)

    def look(self) -> tuple[pa.Schema, int]:
        with pyarrow.parquet.ParquetFile(self.path) as file:
            return file.schema_arrow, file.metadata.num_rows

    def tables(self, schema: pa.Schema) -> Tables:
        with pyarrow.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches():
                yield pa.Table.from_batches([batch], schema)


class CsvTable(TableFile):
    """Every column as text: values stay as written, and "" is an empty text."""

    is_text = True

    def names(self) -> list[str]:
        with self._reader([]) as reader:
            return reader.schema.names

    def values(self, names: Sequence[str]) -> Values:
        for batch in self._batches(self.names()):
            yield from _values(batch, names)

    def look(self) -> tuple[pa.Schema, int]:
        names = self.names()
        schema = pa.schema([(name, pa.string()) for name in names])
        return schema, sum(len(batch) for batch in self._batches(names))

    def tables(self, schema: pa.Schema) -> Tables:
        for batch in self._batches(schema.names):
            yield pa.Table.from_batches([batch])

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self._reader(names) as reader:
            yield from reader

    def _reader(self, names: Sequence[str]) -> Any:
        return pyarrow.csv.open_csv(
            self.path,
            read_options=pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}
            ),
        )


class JsonLinesTable(TableFile):
    """The columns that all lines have between them. Only `tables` needs one type a column."""

    is_text = True

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for row in read_objects(self.path) for name in row))

    def values(self, names: Sequence[str]) -> Values:
        for row in read_objects(self.path):
            yield tuple(row.get(name) for name in names)

    def look(self) -> tuple[pa.Schema, int]:
        schema, count = pa.schema([]), 0
        for rows in self._chunks():
            names = dict.fromkeys(name for row in rows for name in row)
            columns = {name: self._typed([row.get(name) for row in rows], name) for name in names}
            try:
                schema = pa.unify_schemas(
                    [schema, pa.table(columns).schema], promote_options="permissive"
                )
            except pa.ArrowTypeError as error:
                raise DataError(
                    f"{self.path}: values of one column differ in type: {error}"
                ) from error
            count += len(rows)
        return schema, count

    def tables(self, schema: pa.Schema) -> Tables:
        for rows in self._chunks():
            yield pa.Table.from_pylist(rows, schema)

    def _chunks(self) -> Iterator[list[dict[str, Any]]]:
        rows = read_objects(self.path)
        while chunk := list(islice(rows, LINES)):
            yield chunk

    def _typed(self, values: list[object], name: str) -> pa.Array:
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(
                f"{self.path}: column {name!r} has values that differ in type: {error}; make them "
                "alike, e.g. all strings"
            ) from error


def _values(batch: pa.RecordBatch, names: Sequence[str]) -> Values:
    return zip(*(batch.column(name).to_pylist() for name in names), strict=True)


FORMATS: dict[str, type[TableFile]] = {  # by suffix
    ".parquet": ParquetTable,
    ".csv": CsvTable,
    ".jsonl": JsonLinesTable,
    ".json": JsonLinesTable,
}
