"""The input of a run: chunks of a fixed number of rows, however the file is laid out.

Nothing is held but the chunk that is read. A file is looked at once before it is classified, so
that one which cannot be read to its end is refused before hours were spent on its beginning.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from ifedicl_serve.files.tables import open_table, refuse_repeated

Tables = Iterator[pa.Table]


@dataclass(frozen=True)
class Source:
    """A file that was read once: its columns, number of rows and content."""

    path: Path
    schema: pa.Schema
    rows: int
    sha256: str

    def chunks(self, size: int, skip: int) -> Tables:
        """Tables of `size` rows, the last one smaller; the first `skip` are left out."""
        with open_table(self.path) as table:
            yield from islice(_rechunked(table.tables(self.schema), self.schema, size), skip, None)

    def count(self, size: int) -> int:
        """How many chunks of that size there are."""
        return -(-self.rows // size)


def open_source(path: Path) -> Source:
    """Look at a file. Raises DataError for one that cannot be read to its end."""
    with open_table(path) as table:
        schema, rows = table.look()
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    refuse_repeated(path, schema.names, schema.names)
    return Source(path, schema, rows, sha256)


def _rechunked(tables: Iterable[pa.Table], schema: pa.Schema, size: int) -> Tables:
    held = schema.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= size:
            yield held.slice(0, size)
            held = held.slice(size)
    if len(held):
        yield held
