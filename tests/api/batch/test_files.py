"""Files that `ifedicl classify` reads and writes: chunks, types that survive, refusals."""

import datetime
import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from api.batch.columns import ResultColumns
from api.batch.command import classify
from api.batch.parts import Parts
from api.batch.sinks import refuse_unwritable, writer_of
from api.batch.sources import LINES, open_source
from ifedicl_serve.errors import DataError

ROWS = [{"text": f"text {n}, 'quoted' \"twice\"\nand broken", "id": n} for n in range(2500)]


def write(path, rows=ROWS):
    """The rows in the format of the suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".csv":
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


def test_csv_values_stay_as_written(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xef\xbb\xbfid,text,when\n007,,2020-01-01\n1e3,null,\n")
    (chunk,) = open_source(path).chunks(10, skip=0)
    assert chunk.to_pylist() == [
        {"id": "007", "text": "", "when": "2020-01-01"},
        {"id": "1e3", "text": "null", "when": ""},
    ]


def test_json_lines_may_lack_columns_and_widen_them_late(tmp_path):
    rows = [{"text": "a", "n": 1}] * LINES + [{"n": 2.5, "more": {"x": [1]}}, {"text": None}]
    path = write(tmp_path / "data.jsonl", rows)
    path.write_text(path.read_text() + "\n \n")  # blank lines are no rows
    source = open_source(path)
    table = pa.concat_tables(source.chunks(100, skip=0))
    assert source.rows == LINES + 2
    assert source.schema.field("n").type == pa.float64()
    assert table.slice(LINES).to_pylist() == [
        {"text": None, "n": 2.5, "more": {"x": [1]}},
        {"text": None, "n": None, "more": None},
    ]


def test_dates_in_json_stay_text(tmp_path):
    source = open_source(write(tmp_path / "data.jsonl", [{"text": "a", "when": "2020-01-01"}]))
    assert source.schema.field("when").type == pa.string()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.txt", b"", "unknown format '.txt' \\(known: .parquet, .csv, .jsonl, .json\\)"),
        ("data.parquet", b"PAR1 no more", "not a valid .parquet file"),
        ("data.csv", b"a,b\n1,2\n1,2,3\n", "not a valid .csv file: .*Expected 2 columns"),
        ("data.csv", b"a\n\xff\n", "not a valid .csv file: .*UTF8"),
        ("data.csv", b"a,a\n1,2\n", "columns repeat: a, a"),
        ("data.csv", b"", "not a valid .csv file: .*[Ee]mpty"),
        ("data.jsonl", b'{"a": 1}\n[1]\n', "line 2 is not a JSON object"),
        ("data.jsonl", b'{"a": 1}\n\n{"a"\n', "line 3 is not a JSON object"),
        ("data.jsonl", b'{"a": 1}\n{"a": "x"}\n', "column 'a' has values that differ in type"),
        ("data.jsonl", b'{"a": 1}\n' * LINES + b'{"a": "x"}', "values of one column differ"),
        ("data.jsonl", b'{"a": 99999999999999999999}', "column 'a' has values"),
        ("data.jsonl", b"\xff", "not UTF-8"),
        ("data.jsonl", b'{"a": "\\ud800"}', r"'\\ud800' holds half of a surrogate pair"),
        ("data.jsonl", b'{"\\ud800": 1}', "holds half of a surrogate pair"),
        ("data.jsonl", b"[" * 100_000, "line 1 is not a JSON object"),
    ],
)
def test_a_file_that_cannot_be_read_to_its_end_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(DataError, match=f"{path}: cannot read: .*[Nn]o such file"):
        open_source(path)


# -- results

COLUMNS = ResultColumns(("bad", "good"), "p_")


def test_a_row_has_an_error_or_everything_else():
    rows = pa.table({"text": ["x", None, "y"]})
    table = COLUMNS.add(rows, [None, "null", None], [[0.25, 0.75], [0.9, 0.1]])
    assert table.to_pylist() == [
        dict(text="x", p_label="good", p_score=0.75, p_score_bad=0.25, p_score_good=0.75)
        | {"p_error": None},
        dict(text=None, p_label=None, p_score=None, p_score_bad=None, p_score_good=None)
        | {"p_error": "null"},
        dict(text="y", p_label="bad", p_score=0.9, p_score_bad=0.9, p_score_good=0.1)
        | {"p_error": None},
    ]


def test_columns_that_are_there_already_are_refused():
    with pytest.raises(DataError, match="columns 'p_score', 'p_error', .*--prefix"):
        COLUMNS.schema(pa.schema([("p_error", pa.int8()), ("p_score", pa.int8())]))


# -- output and parts

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


def test_parts_keep_every_type_and_the_metadata(tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.begin({})
    other = TYPES.set_column(2, "category", pa.array(["z", "z"]).dictionary_encode())
    parts.write(0, pa.concat_tables([TYPES, other]))  # chunks with dictionaries of their own
    read = parts.read(0)
    assert read.schema.equals(TYPES.schema, check_metadata=True)
    assert read.to_pylist() == TYPES.to_pylist() + other.to_pylist()


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


def test_parts_of_another_run_are_refused_naming_what_differs(tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.begin({"input": "a", "truncate": False})
    parts.begin({"input": "b", "truncate": False})  # nothing was classified yet
    parts.write(0, TYPES)
    parts.begin({"input": "b", "truncate": False})
    with pytest.raises(DataError, match=r"settings \(truncate was False, is True\); repeat"):
        parts.begin({"input": "b", "truncate": True})
    with pytest.raises(DataError, match="input was b, is None"):
        parts.begin({"truncate": False})


def test_a_damaged_record_is_refused(tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.begin({})
    parts.write(0, TYPES)
    (parts.folder / "run.json").write_text("{")
    with pytest.raises(DataError, match="remove its folder to start afresh"):
        parts.begin({})


def test_chunks_that_outlived_their_record_are_no_part_of_the_next_run(tmp_path):
    """As a kill leaves them in the middle of their removal, which goes in any order."""
    parts, table = Parts(tmp_path / "parts"), pa.table({"label": ["old"]})
    parts.begin({"task": "one"})
    for number in range(3):
        parts.write(number, table)
    (tmp_path / "parts" / "000000.arrow").unlink()
    parts.begin({"task": "two"})
    parts.write(0, table)
    assert parts.finished() == 1


def test_a_full_disk_is_an_error_that_keeps_what_is_finished(tmp_path, monkeypatch):
    parts = Parts(tmp_path / "parts")
    parts.begin({})
    parts.write(0, TYPES)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.ipc, "new_stream", full)
    with pytest.raises(DataError, match="No space left on device; what is finished is kept"):
        parts.write(1, TYPES)
    assert parts.finished() == 1
    assert sorted(path.name for path in parts.folder.iterdir()) == ["000000.arrow", "run.json"]


AT_A_RUN = """
import sys
from pathlib import Path
from api.batch.parts import Parts

with Parts(Path(sys.argv[1])).alone():
    print("at it", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_a_process_is_at_is_refused_to_others_until_it_is_gone(tmp_path, capsys):
    parts = Parts(tmp_path / "out.csv.parts")
    command = [sys.executable, "-c", AT_A_RUN, parts.folder]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, **pipes) as process:
        assert process.stdout.readline() == "at it\n"
        arguments = {"model": "m", "task": "t", "input": "i", "output": tmp_path / "out.csv"}
        assert classify([f"--{name}={value}" for name, value in arguments.items()]) == 1
        message = f"another process is classifying into {parts.folder}; wait until it ends"
        assert message in capsys.readouterr().err
        process.kill()
    with parts.alone():
        assert [path.name for path in tmp_path.iterdir()] == [".out.csv.parts.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_owner_removed_meanwhile_is_none(tmp_path, monkeypatch):
    parts = Parts(tmp_path / "parts")
    monkeypatch.setattr(fcntl, "lockf", lambda *_: (tmp_path / ".parts.lock").unlink())
    with pytest.raises(DataError, match="another process is classifying into"):
        with parts.alone():
            pass
