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
# A row of CSV fits into a block, and pyarrow reads dozens of blocks ahead: the second size is for
# files with a row that is longer than the first.
CSV_BLOCK_BYTES = (1 << 20, 1 << 24)

ALIKE = "make them alike, e.g. all strings, or write .jsonl, which keeps each as it is"

Objects = Iterator[dict[str, Any]]
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
    def objects(self) -> Objects:
        """Every row by the names it has, its values as JSON or Python has them; dates and times,
        of which Python has some alone, as texts."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Its columns with a type each, that `tables` takes."""

    @abstractmethod
    def tables(self, schema: pa.Schema) -> Tables:
        """All rows, as columns of those types."""


class ParquetTable(TableFile):
    """Typed columns, read by row groups."""

    is_text = False

    def names(self) -> list[str]:
        return self.schema().names

    def values(self, names: Sequence[str]) -> Values:
        with pyarrow.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(columns=sorted(set(names))):
                yield from _values(batch, names)

    def objects(self) -> Objects:
        schema = self.schema()
        spelled = pa.schema([(field.name, _spelled(field.type)) for field in schema])
        for table in self.tables(schema):
            yield from table.cast(spelled).to_pylist()

    def schema(self) -> pa.Schema:
        with pyarrow.parquet.ParquetFile(self.path) as file:
            return file.schema_arrow

    def tables(self, schema: pa.Schema) -> Tables:
        with pyarrow.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches():
                yield pa.Table.from_batches([batch], schema)


class CsvTable(TableFile):
    """Every column as text: values stay as written, and "" is an empty text."""

    is_text = True

    def names(self) -> list[str]:
        return next(self._batches([])).schema.names

    def values(self, names: Sequence[str]) -> Values:
        for batch in self._batches(self.names()):
            yield from _values(batch, names)

    def objects(self) -> Objects:
        for batch in self._batches(self.names()):
            yield from batch.to_pylist()

    def schema(self) -> pa.Schema:
        return pa.schema([(name, pa.string()) for name in self.names()])

    def tables(self, schema: pa.Schema) -> Tables:
        for batch in self._batches(schema.names):
            yield pa.Table.from_batches([batch])

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows, the first batch empty. Where a row does not fit a block, from it on in larger
        ones."""
        read = 0
        for block_bytes in CSV_BLOCK_BYTES:
            skip = read
            try:
                with self._reader(names, block_bytes) as reader:
                    yield pa.RecordBatch.from_pylist([], reader.schema)
                    for batch in reader:
                        rest = batch.slice(skip)
                        skip -= len(batch) - len(rest)
                        read += len(rest)
                        yield rest
                return
            except pa.ArrowInvalid as error:
                if block_bytes == CSV_BLOCK_BYTES[-1]:
                    raise self._too_long(error) from error

    def _too_long(self, error: pa.ArrowInvalid) -> Exception:
        if "straddling object" not in str(error):
            return error
        return DataError(
            f"{self.path}: row too long: none may have more than {CSV_BLOCK_BYTES[-1] >> 20} MiB "
            "in CSV; convert the file to .jsonl or .parquet"
        )

    def _reader(self, names: Sequence[str], block_bytes: int) -> Any:
        return pyarrow.csv.open_csv(
            self.path,
            read_options=pyarrow.csv.ReadOptions(block_size=block_bytes),
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

    def objects(self) -> Objects:
        return read_objects(self.path)

    def schema(self) -> pa.Schema:
        schema = pa.schema([])
        for rows in self._chunks():
            names = dict.fromkeys(name for row in rows for name in row)
            columns = {name: self._typed([row.get(name) for row in rows], name) for name in names}
            try:
                schema = pa.unify_schemas(
                    [schema, pa.table(columns).schema], promote_options="permissive"
                )
            except pa.ArrowTypeError as error:
                raise DataError(
                    f"{self.path}: values of one column differ in type: {error}; {ALIKE}"
                ) from error
        return schema

    def tables(self, schema: pa.Schema) -> Tables:
        for rows in self._chunks():
            try:
                yield pa.Table.from_pylist(rows, schema)
            except pa.ArrowInvalid as error:  # whole numbers beyond 2^53 in a column of fractions
                raise DataError(f"{self.path}: {error}; {ALIKE}") from error

    def _chunks(self) -> Iterator[list[dict[str, Any]]]:
        rows = read_objects(self.path)
        while chunk := list(islice(rows, LINES)):
            yield chunk

    def _typed(self, values: list[object], name: str) -> pa.Array:
        try:
            return pa.array(values)
        except OverflowError as error:
            raise DataError(
                f"{self.path}: column {name!r} has a number beyond 64 bits; {ALIKE}"
            ) from error
        except pa.ArrowException as error:
            raise DataError(
                f"{self.path}: column {name!r} has values that differ in type: {error}; {ALIKE}"
            ) from error


def _spelled(kind: pa.DataType) -> pa.DataType:
    """The type with texts in the place of dates, times and durations."""
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return pa.string()
    if pa.types.is_dictionary(kind):
        return _spelled(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_spelled(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_spelled(kind.key_type), _spelled(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_spelled(kind.value_type), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_spelled(kind.value_type))
    if pa.types.is_list(kind):
        return pa.list_(_spelled(kind.value_type))
    return kind


def _values(batch: pa.RecordBatch, names: Sequence[str]) -> Values:
    return zip(*(batch.column(name).to_pylist() for name in names), strict=True)


FORMATS: dict[str, type[TableFile]] = {  # by suffix
    ".parquet": ParquetTable,
    ".csv": CsvTable,
    ".jsonl": JsonLinesTable,
    ".json": JsonLinesTable,
}
