"""Files in, examples out; every refusal by its message."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from calibration.data.examples import (
    Example,
    check_labels,
    found_labels,
    read_examples,
    split_held_out,
)
from ifedicl_serve.errors import DataError

ROWS = [("first, with a comma", "1"), ("second\nwith a line break", "0")]


def write(path: Path, columns: tuple[str, str] = ("text", "label")) -> Path:
    """ROWS in the format of the suffix, the labels as integers where the format has them."""
    text, label = columns
    records = [{text: words, label: int(name)} for words, name in ROWS]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        lines = [f'"{record[text]}",{record[label]}' for record in records]
        path.write_text("\n".join([f"{text},{label}", *lines]))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_format_gives_the_same_examples(tmp_path: Path, suffix: str) -> None:
    expected = [Example(*row) for row in ROWS]
    assert read_examples(write(tmp_path / f"rows{suffix}")) == expected
    renamed = write(tmp_path / f"renamed{suffix}", ("question", "topic"))
    assert read_examples(renamed, "question", "topic") == expected


def test_what_looks_like_a_date_or_a_number_stays_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "2020-01-01", "label": "2021-01-01"}\n{"text": "7", "label": 1}\n'
        '{"text": "a\u2028b", "label": "x"}\n'
    )
    assert read_examples(path) == [
        Example("2020-01-01", "2021-01-01"),
        Example("7", "1"),
        Example("a\u2028b", "x"),
    ]


def test_csv_labels_stay_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufefftext,label\na,007\nb,true\n", encoding="utf-8")
    assert [example.label for example in read_examples(path)] == ["007", "true"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"words": "x", "label": "y"}',
            "no column 'text' (columns: 'words', 'label')",
        ),
        ("a.jsonl", b'{"text": "x"}', "no column 'label'"),
        ("a.jsonl", b'{"text": " ", "label": "y"}', "row 1: text is ' '"),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n{"label": "y"}', "row 2: text is None"),
        ("a.jsonl", b'{"text": 3, "label": "y"}', "row 1: text is 3"),
        ("a.jsonl", b'{"text": "x", "label": null}', "row 1: label is None"),
        ("a.jsonl", b'{"text": "x", "label": NaN}', "row 1: label is nan"),
        ("a.jsonl", b"{", "not a valid .jsonl file"),
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b"\n \r\n", "has no rows"),
        ("a.jsonl", b"null", "line 1 is a NoneType, expected one object per line"),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n[1]', "line 2 is a list, expected one object"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "line 1: maximum recursion depth exceeded"),
        ("a.jsonl", b'{"text": "x", "label": ["y"]}', "row 1: label is ['y'], expected a label"),
        ("a.jsonl", b'{"text": "\\ud800", "label": "y"}', "row 1: text is '\\ud800', expected"),
        ("a.jsonl", b'{"text": "x", "label": "\\udfff"}', "row 1: label is '\\udfff', expected"),
        ("a.csv", b"text,text,label\nx,y,z\n", "has 2 columns 'text'; rename all but one"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"text,label\nx\n", "not a valid .csv file"),
        ("a.csv", b"text,label\n\xe9t\xe9,y\n", "not UTF-8 at byte 11; save the file as UTF-8"),
        ("a.parquet", b"PAR", "not a valid .parquet file"),
        ("a.xlsx", b"", "unknown format '.xlsx' (known: .parquet, .csv, .jsonl, .json)"),
    ],
)
def test_refusals(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_examples(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_label_that_is_missing_is_no_label(tmp_path: Path) -> None:
    """As a column of numbers with a gap comes out of pandas."""
    path = tmp_path / "rows.parquet"
    table = {"text": ["x", "y"], "label": pyarrow.array([1.0, float("nan")])}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    with pytest.raises(DataError, match="row 2: label is nan, expected a label name"):
        read_examples(path)


def test_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_examples(tmp_path / "none.jsonl")


def test_unknown_label_names_the_known_ones() -> None:
    rows = [Example("x", "a"), Example("y", "c")]
    assert found_labels(rows) == ["a", "c"]
    with pytest.raises(DataError, match="dev.jsonl: unknown label 'c' .known: 'a', 'b'."):
        check_labels(rows, ["a", "b"], "dev.jsonl")


def test_split_is_a_partition_and_deterministic() -> None:
    rows = [Example(str(number), "a") for number in range(10)]
    train, held_out = split_held_out(rows, 0.3, seed=1)
    assert len(held_out) == 3
    assert sorted(train + held_out, key=lambda row: int(row.text)) == rows
    assert (train, held_out) == split_held_out(rows, 0.3, seed=1)
    assert held_out != split_held_out(rows, 0.3, seed=2)[1]
    assert split_held_out(rows, 0.0, seed=1) == (rows, [])


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=f"held-out fraction is {fraction}, expected 0 or more"):
        split_held_out([Example("a", "a")], fraction, seed=1)
