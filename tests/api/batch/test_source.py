"""The input in chunks of a size, and looked at to its end beforehand."""

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from api.batch.source import open_source
from ifedicl_serve.errors import DataError
from ifedicl_serve.files.table_formats import LINES

ROWS = [{"text": f"text {n}, 'quoted' \"twice\"\nand broken", "id": n} for n in range(2500)]


def write(path):
    """ROWS in the format of the suffix."""
    table = pa.Table.from_pylist(ROWS)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table, path, row_group_size=700)
    return path


@pytest.fixture(params=[".parquet", ".csv", ".jsonl"])
def path(request, tmp_path):
    return tmp_path / f"data{request.param}"


@pytest.mark.parametrize("size", [1, 600, 700, 2500, 9999])
def test_chunks_have_the_size_asked_for_however_the_file_is_laid_out(path, size):
    source = open_source(write(path))
    chunks = list(source.chunks(size, skip=0))
    assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert (len(chunks), source.rows) == (source.count(size), 2500)
    read = pa.concat_tables(chunks).to_pylist()
    assert [row["text"] for row in read] == [row["text"] for row in ROWS]
    assert [int(row["id"]) for row in read] == list(range(2500))


def test_chunks_can_be_skipped(path):
    source = open_source(write(path))
    skipped = pa.concat_tables(source.chunks(600, skip=3))
    assert skipped.equals(pa.concat_tables(source.chunks(600, skip=0)).slice(1800))
    assert list(source.chunks(600, skip=5)) == []


def test_a_file_of_no_rows_has_columns(path):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    else:
        path.write_text("text\n" if path.suffix == ".csv" else "")
    source = open_source(path)
    assert (source.rows, list(source.chunks(10, skip=0))) == (0, [])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.parquet", b"PAR1 no more", "not a valid .parquet file"),
        ("data.csv", b"a\n" * 1_000_000 + b"1,2\n", "not a valid .csv file: .*Expected 1 columns"),
        ("data.csv", b"a,b,b\n1,2,3\n", "has 2 columns 'b'; rename all but one"),
        ("data.jsonl", b'{"a": 1}\n' * LINES + b"[1]", f"line {LINES + 1} is a list, expected"),
    ],
)
def test_a_file_that_cannot_be_read_to_its_end_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(path)
