"""Finished chunks on disk: types that survive, other runs' and other processes' refused."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from api.batch.command import classify
from api.batch.parts import Parts
from ifedicl_serve.errors import DataError
from tests.ifedicl_serve.files.contents import TYPES


def test_parts_keep_every_type_and_the_metadata(tmp_path):
    parts = Parts(tmp_path / "parts")
    parts.begin({})
    other = TYPES.set_column(2, "category", pa.array(["z", "z"]).dictionary_encode())
    parts.write(0, pa.concat_tables([TYPES, other]))  # chunks with dictionaries of their own
    read = parts.read(0)
    assert read.schema.equals(TYPES.schema, check_metadata=True)
    assert read.to_pylist() == TYPES.to_pylist() + other.to_pylist()


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
