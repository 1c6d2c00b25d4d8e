"""The input in chunks of a size, and looked at to its end beforehand."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from api.batch.source import open_source
from ifedicl_serve.errors import DataError
from ifedicl_serve.files import table_formats
from ifedicl_serve.files.table_formats import LINES

OUTPUT = Path("out.parquet")
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
    source = open_source(write(path), "text", OUTPUT)
    chunks = list(source.chunks(size, skip=0))
    assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert (len(chunks), source.rows) == (source.count(size), 2500)
    read = pa.concat_tables(chunks).to_pylist()
    assert [row["text"] for row in read] == [row["text"] for row in ROWS]
    assert [int(row["id"]) for row in read] == list(range(2500))


def test_chunks_can_be_skipped(path):
    source = open_source(write(path), "text", OUTPUT)
    skipped = pa.concat_tables(source.chunks(600, skip=3))
    assert skipped.equals(pa.concat_tables(source.chunks(600, skip=0)).slice(1800))
    assert list(source.chunks(600, skip=5)) == []


@pytest.mark.parametrize("path", [".parquet", ".csv"], indirect=True)
def test_a_file_of_no_rows_has_columns(path):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    else:
        path.write_text("text\n")
    source = open_source(path, "text", OUTPUT)
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
        open_source(path, "a", OUTPUT)


# -- rows that go into lines of JSON


def carried(path, output="out.jsonl"):
    """The objects of a file as its rows are carried into lines of JSON."""
    source = open_source(path, "text", Path(output))
    rows = [json.loads(row) for chunk in source.chunks(100, 0) for row in chunk["row"].to_pylist()]
    assert len(rows) == source.rows
    return rows


def test_case_6_numbers_in_json_stay_as_they_are(tmp_path):
    """Whole ones beyond 2^53, one beyond 64 bits, fractions: columns have one type for all."""
    rows = [{"text": "a", "id": 2**53 + 1 + n} for n in range(LINES)]
    rows += [{"text": "a", "id": 0.5}, {"text": "a", "id": 2**64 - 1}, {"id": "x", "text": None}]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(map(repr, carried(path))) == list(map(repr, rows))


def test_case_7_rows_of_json_keep_their_own_keys_and_no_others(tmp_path):
    rows = [{"text": "a", "meta": {f"k{n}": n}} for n in range(3000)]
    rows += [{"meta": {}, "text": "b", f"top{rows}": [{"x": [1, 1.0]}, {}]}, {}]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(map(repr, carried(path))) == list(map(repr, rows))
    chunks = list(open_source(path, "text", Path("out.jsonl")).chunks(4096, 0))
    assert sum(chunk.nbytes for chunk in chunks) < 2 * path.stat().st_size


def test_case_8_what_is_no_number_is_null_in_json(tmp_path):
    path = tmp_path / "in.parquet"
    odd = [math.nan, math.inf, -math.inf]
    nested = [{"x": [value, 1.0], "y": {"z": value}} for value in odd]
    pyarrow.parquet.write_table(pa.table({"text": list("abc"), "n": odd, "in": nested}), path)
    none = {"x": [None, 1.0], "y": {"z": None}}
    assert carried(path) == [{"text": text, "n": None, "in": none} for text in "abc"]
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"text": "a", "n": NaN, "in": [{"x": -Infinity}]}\n')
    assert carried(lines) == [{"text": "a", "n": None, "in": [{"x": None}]}]


def test_case_5_dates_and_times_are_texts_in_json(tmp_path):
    """Also those that Python has none for: nanoseconds, and years of five digits."""
    when = pa.array([1_577_836_800_123_456_789], pa.timestamp("ns", "UTC"))
    columns = {
        "text": ["a"],
        "when": when,
        "far": pa.array([11_016_000], pa.date32()),
        "time": pa.array([1], pa.time64("ns")),
        "list": pa.array([[1]], pa.list_(pa.timestamp("ns"))),
        "large": pa.array([[1]], pa.large_list(pa.timestamp("ns"))),
        "fixed": pa.array([[1]], pa.list_(pa.timestamp("ns"), 1)),
        "nested": pa.array(
            [{"x": [{"y": 1}]}], pa.struct([("x", pa.list_(pa.struct([("y", pa.duration("ns"))])))])
        ),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.timestamp("ns"))),
        "category": when.dictionary_encode(),
    }
    path = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)
    epoch = "1970-01-01 00:00:00.000000001"
    assert carried(path) == [
        {
            "text": "a",
            "when": "2020-01-01 00:00:00.123456789Z",
            "far": "32130-10-14",
            "time": "00:00:00.000000001",
            "list": [epoch],
            "large": [epoch],
            "fixed": [epoch],
            "nested": {"x": [{"y": "1"}]},
            "map": [["k", epoch]],
            "category": "2020-01-01 00:00:00.123456789Z",
        }
    ]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.jsonl", "in.jsonl: row 2: 'text' is 7, expected a string; name another with"),
        ("out.csv", "in.jsonl: column 'text' has values that differ in type: .*; make them alike"),
    ],
)
def test_a_text_that_is_none_is_refused_at_the_first_look(tmp_path, output, message):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n{"text": 7}\n')
    with pytest.raises(DataError, match=message):
        open_source(path, "text", Path(output))


@pytest.mark.parametrize("output", ["out.parquet", "out.csv"])
@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("0.5", "9007199254740993 is outside of the range .*; make them alike, e.g. all strings"),
        ("18446744073709551615", "column 'id' has a number beyond 64 bits; make them alike"),
        ('"x"', "values of one column differ in type: .*; make them alike"),
    ],
)
def test_case_6_json_that_no_column_holds_is_refused_at_the_first_look(
    tmp_path, output, last, message
):
    """It was found while classifying, or called a difference in type that is none (case 16)."""
    path = tmp_path / "in.jsonl"
    line = '{"text": "a", "id": 9007199254740993}\n'
    path.write_text(line * LINES + f'{{"text": "a", "id": {last}}}\n')
    with pytest.raises(DataError, match=message):
        open_source(path, "text", Path(output))
    assert len(carried(path)) == LINES + 1


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out.jsonl"])
def test_case_5_strings_of_parquet_that_are_no_text_are_refused_at_the_first_look(tmp_path, output):
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    path = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["a"], "more": bad}), path)
    with pytest.raises(DataError, match="in.parquet: not a valid .parquet file: "):
        open_source(path, "text", Path(output))


@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl"])
def test_case_16_a_long_row_of_csv_is_read(tmp_path, output):
    """pyarrow reads blocks, and a row must fit one."""
    texts = ["a"] * 3000 + ["b" * 3_000_000, "c" * 2_000_000] + ["d"] * 3000
    path = tmp_path / "in.csv"
    path.write_text("text,id\n" + "".join(f"{text},{n}\n" for n, text in enumerate(texts)))
    source = open_source(path, "text", Path(output))
    chunks = list(source.chunks(1000, 0))
    assert [text for chunk in chunks for text in source.carried.texts(chunk)] == texts
    path.write_text("text,id\n" + "b" * 3_000_000 + ",1\n")
    assert open_source(path, "text", Path(output)).rows == 1


def test_case_16_a_row_of_csv_that_is_too_long_is_called_that(tmp_path, monkeypatch):
    monkeypatch.setattr(table_formats, "CSV_BLOCK_BYTES", (1 << 8, 1 << 10))
    path = tmp_path / "in.csv"
    path.write_text("text\n" + "b" * (1 << 11) + "\nc\n")
    message = "in.csv: row too long: none may have more than .* MiB in CSV; convert the file to .js"
    with pytest.raises(DataError, match=message):
        open_source(path, "text", OUTPUT)
