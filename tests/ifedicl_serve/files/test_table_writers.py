"""What is written: types that survive, and what a format cannot hold."""

import json

import pyarrow.parquet
import pytest

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.table_formats import FORMATS
from ifedicl_serve.files.table_writers import WRITERS, refuse_unwritable, writer_of
from tests.ifedicl_serve.files.contents import TYPES


def test_what_can_be_read_can_be_written():
    assert list(WRITERS) == list(FORMATS)


def test_parquet_comes_out_as_it_went_in(tmp_path):
    path = tmp_path / "out.parquet"
    with writer_of(path)(path, TYPES.schema) as writer:
        writer.write_table(TYPES)
    assert pyarrow.parquet.read_table(path).to_pylist() == TYPES.to_pylist()


def test_json_says_as_text_what_it_has_no_type_for(tmp_path):
    path = tmp_path / "out.jsonl"
    with writer_of(path)(path, TYPES.schema) as writer:
        writer.write_table(TYPES)
    first = json.loads(path.read_text().splitlines()[0])
    assert first["when"] == "2020-01-01 00:00:00+00:00"
    assert (first["tags"], first["nested"], first["nothing"]) == (["a"], {"x": 1}, None)


@pytest.mark.parametrize("name", ["tags", "nested"])
def test_what_csv_cannot_hold_is_refused_beforehand(tmp_path, name):
    with pytest.raises(DataError, match=".csv cannot hold the input's columns"):
        refuse_unwritable(tmp_path / "out.csv", TYPES.select([name]).schema)
    refuse_unwritable(tmp_path / "out.csv", TYPES.select(["text", "when", "day"]).schema)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_output_format_is_refused(tmp_path):
    with pytest.raises(DataError, match="unknown format '.xlsx'"):
        refuse_unwritable(tmp_path / "out.xlsx", TYPES.schema)
