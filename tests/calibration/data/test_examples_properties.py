"""Whatever a file of examples holds, it is read or refused with a DataError, and read truly."""

import csv
import io
import json

import pyarrow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calibration.data.examples import Example, read_examples
from ifedicl_serve.errors import DataError
from ifedicl_serve.files.table_formats import FORMATS
from tests.ifedicl_serve.files.contents import (
    csv_files,
    full,
    lines,
    parquet,
    parquet_files,
)
from tests.properties import examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def reads_or_is_refused(path, content):
    """Examples that can be tokenised and written, or None."""
    path.write_bytes(content)
    try:
        read = read_examples(path)
    except DataError as error:
        assert str(path) in str(error)
        return None
    assert read
    for row in read:
        assert row.text.strip() and row.label.strip()
        assert row.text.encode() and row.label.encode()
    return read


@given(suffix=st.sampled_from([*FORMATS]), content=st.binary(max_size=400))
def test_random_bytes(folder, suffix, content):
    reads_or_is_refused(folder / f"rows{suffix}", content)


@examples(300)
@given(content=lines())
@example(content=b"null\n")
@example(content=b"\xef\xbb\xbfnull\r\n")
def test_lines_of_anything(folder, content):
    for suffix in (".jsonl", ".csv"):
        reads_or_is_refused(folder / f"rows{suffix}", content)


@examples(300)
@given(content=csv_files())
def test_csv_of_anything(folder, content):
    reads_or_is_refused(folder / "rows.csv", content)


@given(content=parquet_files())
def test_parquet_columns_of_any_type(folder, content):
    """Also values that Arrow can hold and Python cannot."""
    reads_or_is_refused(folder / "rows.parquet", content)


@given(rows=st.lists(st.tuples(full, full), min_size=1, max_size=8))
def test_jsonl_is_read_as_it_was_written(folder, rows):
    expected = [Example(*row) for row in rows]
    for ascii_only in (True, False):
        lines = [json.dumps(vars(row), ensure_ascii=ascii_only) for row in expected]
        assert reads_or_is_refused(folder / "rows.jsonl", "\r\n".join(lines).encode()) == expected


@given(rows=st.lists(st.tuples(full, full), min_size=1, max_size=8))
def test_csv_is_read_as_it_was_written(folder, rows):
    expected = [Example(*row) for row in rows]
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("text", "label"), *rows])
    assert reads_or_is_refused(folder / "rows.csv", written.getvalue().encode()) == expected


@given(rows=st.lists(st.tuples(full, full), min_size=1, max_size=8))
def test_parquet_is_read_as_it_was_written(folder, rows):
    expected = [Example(*row) for row in rows]
    content = parquet(pyarrow.Table.from_pylist([vars(row) for row in expected]))
    assert reads_or_is_refused(folder / "rows.parquet", content) == expected
