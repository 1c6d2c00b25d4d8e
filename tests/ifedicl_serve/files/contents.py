"""What files of rows may hold: every type, and anything at all at random."""

import datetime
import io
import json

import pyarrow as pa
import pyarrow.parquet
from hypothesis import strategies as st

TYPES = pa.table(
    {
        "text": pa.array(["a", None]),
        "large": pa.array(["a", "b"], pa.large_string()),
        "category": pa.array(["x", "y"]).dictionary_encode(),
        "when": pa.array([datetime.datetime(2020, 1, 1)] * 2, pa.timestamp("s", "UTC")),
        "day": pa.array([datetime.date(2020, 1, 1)] * 2),
        "tags": pa.array([["a"], []]),
        "nested": pa.array([{"x": 1}, None]),
        "raw": pa.array([b"\x00", None]),
        "nothing": pa.nulls(2),
    },
    metadata={"of": "pandas"},
)


# -- at random

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
cells = st.one_of(texts, st.sampled_from(['"', '""', '"a', 'a"b', "\0", "\ufeff", "1e999", "\r"]))
headers = (
    st.sampled_from(["text,label", "label,text", "text,text,label", "text", "", '"text']) | texts
)


@st.composite
def lines(draw):
    """Whatever lines: JSON, or not quite."""
    mark = "\ufeff" if draw(st.booleans()) else ""
    rows = draw(st.lists(st.tuples(pieces, breaks), max_size=6))
    text = mark + "".join(piece + end for piece, end in rows)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def csv_files(draw):
    """A header and rows, of the same length or not."""
    rows = draw(st.lists(st.lists(cells, max_size=4), max_size=6))
    return draw(breaks).join([draw(headers), *(",".join(row) for row in rows)]).encode()


@st.composite
def parquet_files(draw):
    """A text and a label of any type, also values that Arrow can hold and Python cannot."""
    column = draw(
        st.sampled_from(
            [
                pa.int64(), pa.float16(), pa.date32(), pa.timestamp("ns"), pa.timestamp("ms"),
                pa.duration("us"), pa.decimal128(38, 2), pa.binary(), pa.list_(pa.string()),
                pa.null(), pa.bool_(), pa.time64("ns"), pa.large_string(),
            ]
        )
    )  # fmt: skip
    raw = draw(st.binary(min_size=16, max_size=16))
    if pa.types.is_primitive(column) and column != pa.bool_():
        labels = pa.Array.from_buffers(column, 1, [None, pa.py_buffer(raw)])
    else:
        labels = pa.nulls(1, column)
    return parquet(pa.table({"text": ["a"], "label": labels}))


def parquet(table):
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()
