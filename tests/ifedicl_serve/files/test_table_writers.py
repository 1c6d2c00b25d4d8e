"""What is written: types that survive, and what a format cannot hold."""

import math
import re

import pyarrow.parquet
import pytest

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.table_formats import FORMATS
from ifedicl_serve.files.table_writers import ROW, WRITERS, refuse_unwritable, writer_of
from tests.ifedicl_serve.files.contents import TYPES


def test_what_can_be_read_can_be_written():
    assert list(WRITERS) == list(FORMATS)


def test_parquet_comes_out_as_it_went_in(tmp_path):
    path = tmp_path / "out.parquet"
    with writer_of(path)(path, TYPES.schema) as writer:
        writer.write_table(TYPES)
    assert pyarrow.parquet.read_table(path).to_pylist() == TYPES.to_pylist()


def test_json_rows_get_columns_behind_their_own_names(tmp_path):
    path, rows = tmp_path / "out.jsonl", ['{"b": 1, "a": []}', "{}"]
    table = pyarrow.table({ROW: rows, "label": ["x", None], "score": [math.nan, 0.5]})
    with writer_of(path)(path, table.schema) as writer:
        writer.write_table(table)
    assert path.read_text() == (
        '{"b": 1, "a": [], "label": "x", "score": null}\n{"label": null, "score": 0.5}\n'
    )


def test_case_16_csv_holds_views_of_strings(tmp_path):
    path = tmp_path / "out.csv"
    table = pyarrow.table({"text": pyarrow.array(["a", None], pyarrow.string_view())})
    refuse_unwritable(path, table.schema)
    with writer_of(path)(path, table.schema) as writer:
        writer.write_table(table)
    assert path.read_text() == '"text"\n"a"\n\n'


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.binary(),
        pyarrow.binary(2),
        pyarrow.large_binary(),
        pyarrow.binary_view(),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.binary()),
    ],
)
def test_case_5_bytes_are_refused_for_csv_beforehand(tmp_path, kind):
    """pyarrow writes those that are text, and fails at the first that are not."""
    with pytest.raises(DataError, match=f"column 'raw' is {re.escape(str(kind))}, and bytes need"):
        refuse_unwritable(tmp_path / "out.csv", pyarrow.schema([("raw", kind)]))
    refuse_unwritable(tmp_path / "out.parquet", pyarrow.schema([("raw", kind)]))


@pytest.mark.parametrize("name", ["tags", "nested"])
def test_what_csv_cannot_hold_is_refused_beforehand(tmp_path, name):
    with pytest.raises(DataError, match=".csv cannot hold the input's columns"):
        refuse_unwritable(tmp_path / "out.csv", TYPES.select([name]).schema)
    refuse_unwritable(tmp_path / "out.csv", TYPES.select(["text", "when", "day"]).schema)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_output_format_is_refused(tmp_path):
    with pytest.raises(DataError, match="unknown format '.xlsx'"):
        refuse_unwritable(tmp_path / "out.xlsx", TYPES.schema)
