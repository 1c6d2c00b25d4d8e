"""Whatever a file of rows holds, it is read or refused with a DataError, and read alike."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.table_formats import FORMATS
from ifedicl_serve.files.tables import open_table
from tests.ifedicl_serve.files import contents
from tests.properties import examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def or_refused(path, read):
    try:
        with open_table(path) as table:
            return read(table)
    except DataError as error:
        assert str(path) in str(error)
        return None


def own_values(table):
    """The names of the columns that do not repeat, and every row's values in them."""
    names = [name for name, count in Counter(table.names()).items() if count == 1]
    return names, list(table.values(names)) if names else []


def typed(table):
    """The names, and all rows by way of tables of one schema."""
    schema = table.schema()
    tables = list(table.tables(schema))
    assert all(read.schema.equals(schema) for read in tables)
    return schema.names, [row for read in tables for row in read.to_pylist()]


def read_both_ways(path, content):
    path.write_bytes(content)
    one, other = or_refused(path, own_values), or_refused(path, typed)
    return one, other


@given(suffix=st.sampled_from([*FORMATS]), content=st.binary(max_size=400))
def test_random_bytes(folder, suffix, content):
    read_both_ways(folder / f"rows{suffix}", content)


@examples(300)
@given(content=contents.lines())
@example(content=b"null\n")
@example(content=b"\xef\xbb\xbfnull\r\n")
def test_lines_of_anything(folder, content):
    for suffix in (".jsonl", ".csv"):
        read_both_ways(folder / f"rows{suffix}", content)


@examples(300)
@given(content=contents.csv_files())
def test_csv_is_the_same_both_ways(folder, content):
    one, other = read_both_ways(folder / "rows.csv", content)
    assert (one is None) == (other is None)
    if one is not None and len(one[0]) == len(other[0]):
        names, rows = one
        assert [dict(zip(names, row, strict=True)) for row in rows] == (other[1] if names else [])


@given(content=contents.parquet_files())
def test_parquet_columns_of_any_type(folder, content):
    read_both_ways(folder / "rows.parquet", content)
