"""Files of rows written table by table, in the format that their suffix names."""

import tempfile
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.json_lines import write_objects
from ifedicl_serve.files.tables import format_of


class JsonLinesWriter:
    """One object per line; as pyarrow's writers, a context manager with `write_table`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.file = path.open("w", encoding="utf-8")

    def write_table(self, table: pa.Table) -> None:
        """Append all rows."""
        write_objects(self.file, table.to_pylist())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


WRITERS: dict[str, Any] = {  # by suffix
    ".parquet": pyarrow.parquet.ParquetWriter,
    ".csv": pyarrow.csv.CSVWriter,
    ".jsonl": JsonLinesWriter,
    ".json": JsonLinesWriter,
}


def writer_of(output: Path) -> Any:
    """What writes such a file: called with a path and a schema. Raises DataError for none."""
    return format_of(output, WRITERS, "choose one of these")


def refuse_unwritable(output: Path, schema: pa.Schema) -> None:
    """Raise DataError if the format cannot hold a column, e.g. lists in CSV."""
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
