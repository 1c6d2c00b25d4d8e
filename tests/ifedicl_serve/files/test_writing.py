"""Files and folders that change whole: failures half-way, links, and several writers at once."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from ifedicl_serve.files import writing as atomic
from ifedicl_serve.files.writing import remove_folder, replaced_file, write_folder

WRITERS, WRITES = 3, 60
FILES = ("one", "two")


def write(folder, text):
    return write_folder(folder, dict.fromkeys(FILES, text.encode()), lambda staged: text)


def content(folder):
    return {(folder / name).read_text() for name in FILES}


def visible(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "task", "old")
    return tmp_path / "task"


@pytest.mark.parametrize("step", ["check", "_write_synced", "_rename_over"])
def test_a_write_that_fails_changes_nothing_and_leaves_nothing(folder, step, monkeypatch):
    def fail(*arguments):
        raise OSError("no")

    if step != "check":
        monkeypatch.setattr(atomic, step, fail)
    with pytest.raises(OSError, match="no"):
        write_folder(folder, {"one": b"new"}, fail)
    assert visible(folder.parent) == ["task"]
    assert content(folder) == {"old"}


def test_without_replace_a_folder_with_files_is_left_as_it_is(folder):
    with pytest.raises(OSError, match="not empty"):
        write_folder(folder, {"one": b"new"}, lambda staged: None, replace=False)
    assert content(folder) == {"old"}
    assert visible(folder.parent) == ["task"]


def test_the_old_folder_is_put_back_if_the_new_one_cannot_take_its_place(folder, monkeypatch):
    rename = Path.rename

    def fail_for_the_new(path, target):
        if path.name == "new":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="no"):
        write(folder, "new")
    assert content(folder) == {"old"}
    assert visible(folder.parent) == ["task"]


def test_the_check_sees_the_files_before_anybody_else(folder):
    def check(staged):
        assert content(folder) == {"old"}
        assert content(staged) == {"new"}
        assert all(name.startswith(".") or name == "task" for name in os.listdir(folder.parent))
        return "checked"

    assert write_folder(folder, dict.fromkeys(FILES, b"new"), check) == "checked"
    assert content(folder) == {"new"}


def test_a_link_is_replaced_and_removed_but_never_followed(folder, tmp_path):
    for broken in (False, True):
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "nowhere" if broken else folder)
        write(link, "new")
        assert content(link) == {"new"} and not link.is_symlink()
        remove_folder(link)
        link.symlink_to(tmp_path / "nowhere" if broken else folder)
        remove_folder(link)
        assert content(folder) == {"old"}
        assert visible(tmp_path) == ["task"]


def test_removing_what_is_not_there_says_so(folder):
    remove_folder(folder)
    assert visible(folder.parent) == []
    with pytest.raises(FileNotFoundError):
        remove_folder(folder)


def write_often(folder, text):
    for _ in range(WRITES):
        write(folder, text)


def test_of_several_processes_that_write_at_once_one_wins_whole(tmp_path):
    """None of them fails, although each finds the folder coming and going."""
    folder = tmp_path / "task"
    texts = [f"writer {number}" for number in range(WRITERS)]
    with ProcessPoolExecutor(WRITERS, get_context("spawn")) as pool:
        for done in [pool.submit(write_often, folder, text) for text in texts]:
            done.result()
    assert content(folder) < {*texts} and len(content(folder)) == 1
    assert visible(tmp_path) == ["task"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, elsewhere):
    path, staging = tmp_path / "file", tmp_path / "staging"
    staging.mkdir()
    path.write_text("old")
    with pytest.raises(OSError, match="no"):
        with replaced_file(path, staging if elsewhere else None) as staged:
            staged.write_text("half")
            raise OSError("no")
    assert path.read_text() == "old"
    with replaced_file(path, staging if elsewhere else None) as staged:
        assert (staged.parent == staging) == elsewhere
        staged.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert visible(tmp_path) == ["file", "staging"] and visible(staging) == []
