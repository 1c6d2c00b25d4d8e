"""The artifact folder while it changes: what `refresh` makes of it, and what it reads."""

import errno
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import ifedicl_serve.contract.artifact
import ifedicl_serve.tasks.registry
from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE
from ifedicl_serve.errors import ArtifactError, TaskNotFoundError, TaskUnavailableError
from ifedicl_serve.tasks.registry import TaskRegistry
from ifedicl_serve.tasks.task import ListedTask, Task
from tests.ifedicl_serve.factory import MODEL, make_artifact


@pytest.fixture
def registry(tmp_path, bpe):
    """The registry of a folder with one task, `sst2`."""
    make_artifact(tmp_path / "sst2")
    return TaskRegistry(tmp_path, MODEL, bpe)


@pytest.fixture
def reads(monkeypatch):
    """Names of the folders whose task.json is read."""
    names = []
    read_spec = ifedicl_serve.tasks.registry.read_spec
    monkeypatch.setattr(
        "ifedicl_serve.tasks.registry.read_spec",
        lambda path: names.append(path.name) or read_spec(path),
    )
    return names


def test_a_task_that_is_dropped_in_serves(registry, tmp_path):
    digest = make_artifact(tmp_path / "trec", name="trec").digest
    assert list(registry.tasks) == ["sst2"]
    assert registry.refresh() == {"trec": f"serves task 'trec', {digest[:16]}"}
    assert registry.get("trec").digest == digest


def test_a_task_that_is_replaced_serves_its_new_content(registry, tmp_path):
    old = registry.get("sst2")
    new = make_artifact(tmp_path / "sst2", seed=1).digest
    assert registry.get("sst2") is old
    registry.refresh()
    assert registry.get("sst2").digest == new != old.digest


def test_a_task_that_is_removed_is_not_found(registry, tmp_path):
    shutil.rmtree(tmp_path / "sst2")
    assert registry.refresh() == {"sst2": "removed"}
    with pytest.raises(TaskNotFoundError):
        registry.get("sst2")


def test_the_successor_of_a_replaced_task_is_its_new_content(registry, tmp_path):
    old = registry.get("sst2")
    new = make_artifact(tmp_path / "sst2", seed=1).digest
    assert registry.successor(old).digest == new


def test_a_task_that_was_touched_is_its_own_successor_as_another_generation(registry, tmp_path):
    old = registry.get("sst2")
    os.utime(tmp_path / "sst2" / TASK_FILE)
    new = registry.successor(old)
    assert new.digest == old.digest
    assert new.generation != old.generation


def test_a_task_that_is_what_it_was_has_no_successor(registry):
    with pytest.raises(TaskUnavailableError, match="'sst2' could not be loaded by the engine"):
        registry.successor(registry.get("sst2"))


def test_a_task_that_is_gone_has_no_successor(registry, tmp_path):
    old = registry.get("sst2")
    shutil.rmtree(tmp_path / "sst2")
    with pytest.raises(TaskNotFoundError):
        registry.successor(old)


def test_changes_are_told_whoever_looked(registry, tmp_path):
    told = []
    registry.on_change = told.append
    old = registry.get("sst2")
    new = make_artifact(tmp_path / "sst2", seed=1).digest
    registry.successor(old)
    registry.refresh()
    shutil.rmtree(tmp_path / "sst2")
    registry.refresh()
    assert told == [{"sst2": f"serves task 'sst2', {new[:16]}"}, {"sst2": "removed"}]


def test_only_the_sub_folders_named_are_looked_at(registry, tmp_path):
    for name in ("trec", "subj"):
        make_artifact(tmp_path / name, name=name)
    registry.refresh({"trec", "nobody", ".hidden"})
    assert list(registry.tasks) == ["sst2", "trec"]


def test_nothing_is_read_again_while_nothing_changed(registry, reads):
    task = registry.get("sst2")
    assert registry.refresh() == {}
    assert reads == []
    assert registry.get("sst2") is task


def test_a_folder_that_is_copied_in_slowly_is_refused_until_it_is_whole(registry, tmp_path):
    """In the order of `cp -r`: the folder, task.json, and half of the vectors."""
    make_artifact(tmp_path / ".source" / "trec", name="trec")
    source, target = tmp_path / ".source" / "trec", tmp_path / "trec"
    vectors = (source / VECTORS_FILE).read_bytes()
    target.mkdir()
    registry.refresh()
    assert "cannot read task.json" in registry.refused["trec"]
    (target / TASK_FILE).write_bytes((source / TASK_FILE).read_bytes())
    registry.refresh()
    assert "vectors.safetensors: cannot read" in registry.refused["trec"]
    (target / VECTORS_FILE).write_bytes(vectors[: len(vectors) // 2])
    registry.refresh()
    assert "does not match the SHA-256" in registry.refused["trec"]
    (target / VECTORS_FILE).write_bytes(vectors)
    registry.refresh()
    assert registry.refused == {}
    assert registry.get("trec").spec.name == "trec"


def test_a_task_that_is_away_between_two_renames_is_not_gone(registry, tmp_path, monkeypatch):
    (tmp_path / "sst2").rename(tmp_path / ".old")
    monkeypatch.setattr("time.sleep", lambda seconds: (tmp_path / ".old").rename(tmp_path / "sst2"))
    registry.refresh()
    assert registry.get("sst2").folder == tmp_path / "sst2"


def test_a_folder_that_changes_while_it_is_read_keeps_its_last_state(
    registry, tmp_path, monkeypatch
):
    old = registry.get("sst2")
    make_artifact(tmp_path / "sst2", seed=1)
    read_spec = ifedicl_serve.tasks.registry.read_spec

    def read_while_somebody_writes(path):
        read = read_spec(path)
        (path / TASK_FILE).write_text("{")
        return read

    monkeypatch.setattr("ifedicl_serve.tasks.registry.read_spec", read_while_somebody_writes)
    assert registry.refresh() == {}
    assert registry.get("sst2") is old


@pytest.fixture
def unreadable(monkeypatch):
    """Names of files that cannot be read for now, and why."""
    errors = {}
    read_file = ifedicl_serve.contract.artifact.read_file

    def read_unless_it_fails(path, limit):
        if path.name in errors:
            raise OSError(errors[path.name], os.strerror(errors[path.name]))
        return read_file(path, limit)

    monkeypatch.setattr("ifedicl_serve.contract.artifact.read_file", read_unless_it_fails)
    return errors


@pytest.mark.parametrize("file", [TASK_FILE, VECTORS_FILE])
@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_task_that_could_not_be_read_for_a_moment_serves_once_it_can(
    registry, tmp_path, unreadable, file, error
):
    make_artifact(tmp_path / "trec", name="trec")
    unreadable[file] = error
    assert os.strerror(error) in registry.refresh()["trec"]
    assert os.strerror(error) in registry.refused["trec"]
    assert registry.refresh() == {}  # as it was
    unreadable.clear()
    assert registry.refresh()["trec"].startswith("serves task 'trec'")
    assert registry.get("trec").name == "trec"


def test_a_task_that_could_not_be_read_when_it_was_asked_for_serves_once_it_can(many, unreadable):
    unreadable[VECTORS_FILE] = errno.EMFILE
    with pytest.raises(TaskNotFoundError, match="c/vectors.safetensors: cannot read: Too many"):
        many.get("c")
    unreadable.clear()
    many.refresh()
    assert many.get("c").name == "c"


def test_a_file_that_is_not_there_is_looked_for_again_when_the_folder_changes(
    registry, tmp_path, reads
):
    make_artifact(tmp_path / "trec", name="trec")
    (tmp_path / "trec" / VECTORS_FILE).unlink()
    registry.refresh()
    registry.refresh()
    assert reads == ["trec"]


def test_a_missing_tasks_directory_leaves_what_was_served(registry, tmp_path):
    task = registry.get("sst2")
    tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-away"))
    with pytest.raises(ArtifactError):
        registry.refresh()
    assert registry.get("sst2") is task


def test_two_registries_of_a_folder_agree_whenever_they_looked(registry, tmp_path, bpe):
    """Also about which folder serves a name, and about generations, which name cached KV."""
    for name in ("trec", "another"):
        make_artifact(tmp_path / name, name="sst2" if name == "another" else name)
        registry.refresh()
    late = TaskRegistry(tmp_path, MODEL, bpe)
    assert registry.refused == late.refused
    assert list(late.refused) == ["sst2"]
    for name in ("sst2", "trec"):
        one, two = registry.get(name), late.get(name)
        assert (one.digest, one.generation) == (two.digest, two.generation)


# -- generations


def test_a_touched_or_restored_artifact_is_another_generation_of_the_same_content(
    registry, tmp_path
):
    """Whatever made an engine fail, an operator can have it tried again."""
    seen = [registry.get("sst2")]
    os.utime(tmp_path / "sst2" / TASK_FILE)
    registry.refresh()
    seen.append(registry.get("sst2"))
    (tmp_path / "sst2").rename(tmp_path / ".away")
    (tmp_path / ".away").rename(tmp_path / "sst2")
    registry.refresh()
    seen.append(registry.get("sst2"))
    assert len({task.digest for task in seen}) == 1
    assert len({task.generation for task in seen}) == 3


# -- thousands of artifacts


@pytest.fixture
def many(tmp_path, bpe, monkeypatch):
    """A registry of four tasks, one damaged, that checks one artifact per refresh."""
    monkeypatch.setattr("ifedicl_serve.tasks.registry.CHECKS_PER_REFRESH", 1)
    for name in ("a", "b", "c", "d"):
        make_artifact(tmp_path / name, name=name)
    (tmp_path / "d" / VECTORS_FILE).write_bytes(b"")
    return TaskRegistry(tmp_path, MODEL, bpe)


def kinds(registry):
    return {name: type(task) for name, task in registry.tasks.items()}


def test_artifacts_are_listed_at_once_and_checked_a_few_at_a_time(many):
    assert kinds(many) == {"a": Task, "b": ListedTask, "c": ListedTask, "d": ListedTask}
    many.refresh()
    many.refresh()
    assert many.refresh()["d"].startswith("refused, d/vectors.safetensors: content does not match")
    assert kinds(many) == {"a": Task, "b": Task, "c": Task}


def test_an_artifact_is_checked_when_it_is_asked_for(many):
    assert isinstance(many.get("c"), Task)
    assert kinds(many)["c"] is Task
    with pytest.raises(TaskNotFoundError, match="its artifact was refused: d/vectors"):
        many.get("d")
    assert list(many.refused) == ["d"]


def test_an_artifact_that_several_ask_for_at_once_is_checked_once(many, monkeypatch):
    checked = []
    check = many.check

    def slow_check(folder, *others):
        checked.append(folder.name)
        time.sleep(0.1)
        return check(folder, *others)

    monkeypatch.setattr(many, "check", slow_check)
    with ThreadPoolExecutor(8) as threads:
        tasks = list(threads.map(many.get, ["c"] * 8))
    assert checked == ["c"]
    assert all(task is tasks[0] for task in tasks)


def test_only_an_artifact_that_is_yet_to_be_checked_is_read_when_asked_for(many):
    assert [many.reads(name) for name in ("a", "c", "d", "nobody")] == [False, True, True, False]
    many.get("c")
    with pytest.raises(TaskNotFoundError):
        many.get("d")
    assert not many.reads("c")
    assert not many.reads("d")


def test_a_name_that_is_not_found_costs_no_look_at_all_tasks(many, monkeypatch):
    """Anybody can ask for such names."""
    monkeypatch.setattr(TaskRegistry, "tasks", None)
    monkeypatch.setattr(TaskRegistry, "refused", None)
    with pytest.raises(TaskNotFoundError, match="loaded: 'a', 'b', 'c', 'd'"):
        many.get("nobody")
    with pytest.raises(
        TaskNotFoundError, match=r"\(loaded: 'a', 'b', 'c'\); its artifact was refused"
    ):
        many.get("d")


def test_what_was_dropped_in_is_checked_before_what_is_waiting(many, tmp_path):
    make_artifact(tmp_path / "z", name="z")
    many.refresh()
    assert kinds(many)["z"] is Task
    assert kinds(many)["b"] is ListedTask


def test_a_task_refused_when_it_was_asked_for_serves_from_another_folder_that_holds_it(
    many, tmp_path
):
    make_artifact(tmp_path / "cc", name="cc")  # the next to be checked
    for name in ("e", "f"):
        make_artifact(tmp_path / name, name="dup")
    (tmp_path / "e" / VECTORS_FILE).write_bytes(b"")
    many.refresh()
    with pytest.raises(TaskNotFoundError):
        many.get("dup")
    assert many.refresh(())["e"].startswith("refused, e/vectors.safetensors: content does not")
    assert many.get("dup").folder == tmp_path / "f"
    assert "e" not in many.refresh(())
