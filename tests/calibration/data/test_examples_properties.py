"""Whatever a file of examples holds, it is read or refused with a DataError, and read truly."""

import csv
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calibration.data.examples import Example, read_examples
from ifedicl_serve.errors import DataError
from tests.properties import examples

SUFFIXES = (".jsonl", ".csv", ".parquet")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
full = texts.filter(lambda text: text.strip())
breaks = st.sampled_from(["\n", "\r\n", "\n\n", "\r", "\u2028", "\x0b", "\n \t\n"])
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
pieces = st.one_of(
    values.map(json.dumps),
    st.dictionaries(st.sampled_from(["text", "label", "more"]), values).map(json.dumps),
    st.tuples(full, full).map(lambda row: json.dumps({"text": row[0], "label": row[1]})),
    st.sampled_from(["NaN", "-Infinity", "1e999", "9" * 5000, '{"text": "a", "label": 1e400}']),
    st.sampled_from(["[" * 100_000, '{"a":' * 5000, '"', "\ufeff", "\0", "null", "// no", "'a'"]),
    texts,
)


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


@given(suffix=st.sampled_from(SUFFIXES), content=st.binary(max_size=400))
def test_random_bytes(folder, suffix, content):
    reads_or_is_refused(folder / f"rows{suffix}", content)


@examples(300)
@given(lines=st.lists(st.tuples(pieces, breaks), max_size=6), mark=st.booleans())
@example(lines=[("null", "\n")], mark=False)
@example(lines=[("null", "\r\n")], mark=True)
def test_lines_of_anything(folder, lines, mark):
    text = ("\ufeff" if mark else "") + "".join(piece + end for piece, end in lines)
    for suffix in (".jsonl", ".csv"):
        reads_or_is_refused(folder / f"rows{suffix}", text.encode("utf-8", "surrogatepass"))


cells = st.one_of(texts, st.sampled_from(['"', '""', '"a', 'a"b', "\0", "\ufeff", "1e999", "\r"]))


@examples(300)
@given(
    rows=st.lists(st.lists(cells, max_size=4), max_size=6),
    header=st.sampled_from(["text,label", "label,text", "text,text,label", "text", "", '"text'])
    | texts,
    end=breaks,
)
def test_csv_of_anything(folder, rows, header, end):
    lines = [header, *(",".join(row) for row in rows)]
    reads_or_is_refused(folder / "rows.csv", end.join(lines).encode())


@given(
    column=st.sampled_from(
        [
            pyarrow.int64(), pyarrow.float16(), pyarrow.date32(), pyarrow.timestamp("ns"),
            pyarrow.timestamp("ms"), pyarrow.duration("us"), pyarrow.decimal128(38, 2),
            pyarrow.binary(), pyarrow.list_(pyarrow.string()), pyarrow.null(), pyarrow.bool_(),
            pyarrow.time64("ns"), pyarrow.large_string(),
        ]
    ),
    raw=st.binary(min_size=16, max_size=16),
)  # fmt: skip
def test_parquet_columns_of_any_type(folder, column, raw):
    """Also values that Arrow can hold and Python cannot."""
    if pyarrow.types.is_primitive(column) and column != pyarrow.bool_():
        labels = pyarrow.Array.from_buffers(column, 1, [None, pyarrow.py_buffer(raw)])
    else:
        labels = pyarrow.nulls(1, column)
    table = pyarrow.table({"text": ["a"], "label": labels})
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    reads_or_is_refused(folder / "rows.parquet", sink.getvalue())


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
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([vars(row) for row in expected]), sink)
    assert reads_or_is_refused(folder / "rows.parquet", sink.getvalue()) == expected
