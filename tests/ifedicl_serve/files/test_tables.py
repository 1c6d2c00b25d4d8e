"""Files of rows, by way of their own values and by way of typed tables; every refusal."""

import json
import os

import pyarrow as pa
import pyarrow.parquet
import pytest

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.table_formats import LINES
from ifedicl_serve.files.tables import (
    NAMES_IN_ERROR,
    open_table,
    refuse_missing,
    refuse_repeated,
)


def values(path, *names):
    with open_table(path) as table:
        return list(table.values(names or table.names()))


def looked(path):
    """The schema, and all rows as one table of it."""
    with open_table(path) as table:
        schema = table.schema()
        whole = pa.concat_tables([schema.empty_table(), *table.tables(schema)])
    return schema, whole.to_pylist()


def test_csv_values_stay_as_written(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xef\xbb\xbfid,text,when\n007,,2020-01-01\n1e3,null,\n")
    assert values(path) == [("007", "", "2020-01-01"), ("1e3", "null", "")]
    assert looked(path)[1] == [
        {"id": "007", "text": "", "when": "2020-01-01"},
        {"id": "1e3", "text": "null", "when": ""},
    ]


def test_json_lines_may_lack_columns_and_widen_them_late(tmp_path):
    rows = [{"text": "a", "n": 1}] * LINES + [{"n": 2.5, "more": {"x": [1]}}, {"text": None}]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n \n")  # blank lines are no rows
    schema, read = looked(path)
    assert schema.field("n").type == pa.float64()
    assert read[LINES:] == [
        {"text": None, "n": 2.5, "more": {"x": [1]}},
        {"text": None, "n": None, "more": None},
    ]


def test_a_json_value_of_its_own_needs_no_type_that_fits_the_others(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"n": 1}\n{"n": 1.5}\n{"n": true}\n{"n": "x"}\n{"n": 1e400, "m": []}\n{}\n')
    read = [value for (value,) in values(path, "n")]
    assert list(map(str, read)) == ["1", "1.5", "True", "x", "inf", "None"]


def test_dates_in_json_stay_text(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"when": "2020-01-01"}')
    assert values(path) == [("2020-01-01",)]
    assert looked(path)[0].field("when").type == pa.string()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_of_json_end_as_they_do_anywhere_and_may_begin_with_a_mark(tmp_path, end):
    """As in files that Windows wrote and somebody put one behind another."""
    path = tmp_path / "data.jsonl"
    line = '\ufeff{"text": "a\u2028b"}'.encode()
    path.write_bytes(end.join([line, b"", line, b""]))
    assert values(path) == [("a\u2028b",)] * 2
    assert looked(path)[1] == [{"text": "a\u2028b"}] * 2


def test_columns_of_parquet_may_have_the_names_of_others_parts(tmp_path):
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pa.table({"a": [{"b": 1}], "a.b": ["x"], "c": [None]}), path)
    assert values(path, "a.b", "c") == [("x", None)]
    assert values(path, "c", "c") == [(None, None)]
    assert looked(path)[1] == [{"a": {"b": 1}, "a.b": "x", "c": None}]


def test_values_that_python_cannot_hold_are_refused_only_where_they_are_wanted(tmp_path):
    path = tmp_path / "data.parquet"
    far = pa.array([2**62], pa.timestamp("us"))
    pyarrow.parquet.write_table(pa.table({"text": ["a"], "far": far}), path)
    assert values(path, "text") == [("a",)]
    with pytest.raises(DataError, match="not a valid .parquet file: .*range"):
        values(path, "far")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.txt", b"", "unknown format '.txt' \\(known: .parquet, .csv, .jsonl, .json\\)"),
        ("data.parquet", b"PAR1 no more", "not a valid .parquet file"),
        ("data.csv", b"a,b\n1,2\n1,2,3\n", "not a valid .csv file: .*Expected 2 columns"),
        ("data.csv", b"a\n\xff\n", "not UTF-8 at byte 2; save the file as UTF-8"),
        ("data.csv", b"\xff,a\n1,2\n", "not UTF-8 at byte 0"),
        ("data.csv", b"", "not a valid .csv file: .*[Ee]mpty"),
        ("data.jsonl", b'{"a": 1}\n[1]\n', "line 2 is a list, expected one object per line"),
        ("data.jsonl", b'{"a": 1}\n\n{"a"\n', "not a valid .jsonl file: line 3: Expecting ':'"),
        ("data.json", b"null", "not a valid .json file: line 1 is a NoneType, expected one"),
        ("data.jsonl", b'{"a": 1}\n\xc3\xa9\xff', "not UTF-8 at byte 11"),
        ("data.jsonl", b"[" * 100_000, "line 1: maximum recursion depth exceeded"),
    ],
)
@pytest.mark.parametrize("read", [values, looked])
def test_a_file_that_is_none_of_its_format_is_refused(tmp_path, name, content, message, read):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": "x"}\n', "column 'a' has values that differ in type"),
        (b'{"a": 1}\n' * LINES + b'{"a": "x"}', "values of one column differ"),
        (b'{"a": 99999999999999999999}', "column 'a' has a number beyond 64 bits"),
        (b'{"a": "\\ud800"}', r"'\\ud800' holds half of a surrogate pair"),
        (b'{"\\ud800": 1}', "holds half of a surrogate pair"),
    ],
)
def test_json_that_no_column_can_hold_is_refused(tmp_path, content, message):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    assert values(path)
    with pytest.raises(DataError, match=message):
        looked(path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_that_is_not_there_or_none_is_named(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    with pytest.raises(DataError, match=f"{path}: cannot read: No such file"):
        values(path)
    os.mkfifo(path)  # and nobody waits for what is written to it
    with pytest.raises(DataError, match=f"{path}: cannot read: not a regular file"):
        values(path)


def test_a_column_that_is_missing_or_there_twice_is_refused(tmp_path):
    path = tmp_path / "data.csv"
    with pytest.raises(DataError, match=r"no column 'b' \(columns: 'a', 'c'\); rename it"):
        refuse_missing(path, ["a", "b"], ["a", "c"], "rename it")
    with pytest.raises(DataError, match=r"no column 'b' \(columns: none\); rename it"):
        refuse_missing(path, ["b"], [], "rename it")
    many = [f"column {number}" for number in range(NAMES_IN_ERROR + 2)]
    with pytest.raises(DataError, match="'column 19' and 2 more\\); rename it"):
        refuse_missing(path, ["b"], many, "rename it")
    with pytest.raises(DataError, match="has 3 columns 'b'; rename all but one"):
        refuse_repeated(path, ["a", "b"], ["a", "b", "c", "b", "b", "c"])
    refuse_missing(path, ["a"], ["a", "b", "b"], "rename it")
    refuse_repeated(path, ["a"], ["a", "b", "b"])
