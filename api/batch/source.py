"""The input of a run: chunks of a fixed number of rows, however the file is laid out.

Nothing is held but the chunk that is read. A file is looked at once before it is classified, by the
very reading that the run does, so that one which cannot be read to its end, or carried into the
output, is refused before hours were spent on its beginning.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from api.batch.carried import Carried, carried
from ifedicl_serve.files.tables import open_table, refuse_missing, refuse_repeated

Tables = Iterator[pa.Table]


@dataclass(frozen=True)
class Source:
    """A file that was read once: the names of its columns, how its rows are carried, their number,
    and its content."""

    path: Path
    names: Sequence[str]
    carried: Carried
    rows: int
    sha256: str

    def chunks(self, size: int, skip: int) -> Tables:
        """Tables of `size` rows, the last one smaller; the first `skip` are left out."""
        with open_table(self.path) as file:
            tables = self.carried.tables(file)
            yield from islice(_rechunked(tables, self.carried.schema, size), skip, None)

    def count(self, size: int) -> int:
        """How many chunks of that size there are."""
        return -(-self.rows // size)


def open_source(path: Path, text_column: str, output: Path) -> Source:
    """Look at a file whose rows go into `output`. Raises DataError for one without such a column of
    texts, and for one that cannot be read or written to its end."""
    with open_table(path) as file:
        names = file.names()
        refuse_repeated(path, names, names)
        refuse_missing(path, [text_column], names, "name yours with --text-column")
        how = carried(file, text_column, output)
        rows = sum(len(table) for table in how.tables(file))
        with path.open("rb") as raw:
            sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
    return Source(path, names, how, rows, sha256)


def _rechunked(tables: Iterable[pa.Table], schema: pa.Schema, size: int) -> Tables:
    held = schema.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= size:
            yield held.slice(0, size)
            held = held.slice(size)
    if len(held):
        yield held
