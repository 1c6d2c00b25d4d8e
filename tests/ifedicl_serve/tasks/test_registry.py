"""The artifact folder as servers and workers see it."""

import os

import pytest

from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE
from ifedicl_serve.errors import ArtifactError, TaskNotFoundError
from ifedicl_serve.tasks.index import ArtifactIndex
from ifedicl_serve.tasks.registry import NAMES_IN_ERROR, TaskRegistry
from tests.ifedicl_serve.factory import MODEL, make_artifact


def registry(folder, tokenizer):
    return TaskRegistry(folder, MODEL, tokenizer)


def test_every_good_artifact_serves(tmp_path, bpe):
    digests = {name: make_artifact(tmp_path / name, name=name).digest for name in ("b", "a")}
    tasks = registry(tmp_path, bpe).tasks
    assert {name: task.digest for name, task in tasks.items()} == digests
    assert list(tasks) == ["a", "b"]


def test_a_task_knows_its_labels_as_the_tokenizer_reads_them(tmp_path, bpe):
    make_artifact(tmp_path / "sst2")
    task = registry(tmp_path, bpe).get("sst2")
    assert task.folder == tmp_path / "sst2"
    assert task.trie.nodes[0].children == tuple(bpe(" negative positive").input_ids)


def test_a_task_is_served_under_the_name_in_its_file(tmp_path, bpe):
    make_artifact(tmp_path / "copied here", name="sst2")
    assert list(registry(tmp_path, bpe).tasks) == ["sst2"]


def test_a_bad_artifact_is_refused_and_stops_no_other(tmp_path, bpe):
    for name in ("a", "broken", "z"):
        make_artifact(tmp_path / name, name=name)
    (tmp_path / "broken" / VECTORS_FILE).write_bytes(b"")
    tasks = registry(tmp_path, bpe)
    assert list(tasks.tasks) == ["a", "z"]
    assert list(tasks.refused) == ["broken"]
    assert "content does not match the SHA-256 in task.json" in tasks.refused["broken"]


def test_the_reason_of_a_refusal_names_the_folder_but_not_where_it_is(tmp_path, bpe):
    make_artifact(tmp_path / "one", name="sst2")
    make_artifact(tmp_path / "two", name="sst2")
    make_artifact(tmp_path / "other", model=MODEL.model_copy(update={"architecture": "Gemma"}))
    (tmp_path / "empty").mkdir()
    refused = registry(tmp_path, bpe).refused
    assert sorted(refused) == ["empty", "other", "two"]
    assert not any(str(tmp_path) in reason for reason in refused.values())


def test_case_13_a_task_named_like_a_model_of_the_server_is_refused_with_its_reason(tmp_path, bpe):
    """A request for the name would get the model, silently unadapted, and both were listed."""
    for name in ("banking", "sst2"):
        make_artifact(tmp_path / f"{name} of a team", name=name)
    tasks = TaskRegistry(tmp_path, MODEL, bpe, taken=frozenset({"banking", "adapter"}))
    assert list(tasks.tasks) == ["sst2"]
    assert tasks.refused == {
        "banking of a team": "banking of a team: task 'banking' has the name of a model of this "
        "server, which a request for it would get, unadapted; rename the task in its task.json, or "
        "the model with --served-model-name"
    }
    with pytest.raises(TaskNotFoundError):
        tasks.get("banking")
    with pytest.raises(ArtifactError, match="has the name of a model"):
        tasks.check(tmp_path / "banking of a team")


def test_the_second_artifact_of_a_name_is_refused(tmp_path, bpe):
    make_artifact(tmp_path / "one", name="sst2")
    make_artifact(tmp_path / "two", name="sst2")
    assert registry(tmp_path, bpe).refused == {
        "two": "two: task 'sst2' is already served from one; rename one of them in its task.json"
    }


def test_an_artifact_of_another_model_is_refused(tmp_path, bpe):
    make_artifact(tmp_path / "sst2", model=MODEL.model_copy(update={"architecture": "Gemma"}))
    reason = registry(tmp_path, bpe).refused["sst2"]
    assert reason.startswith("sst2: calibrated on another model (architecture Gemma of 'base', ")


def test_labels_that_collide_in_tokens_are_refused(tmp_path, wordpiece):
    make_artifact(tmp_path / "sst2", labels=("News", "news"))
    reason = registry(tmp_path, wordpiece).refused["sst2"]
    assert reason.startswith("labels 'News' and 'news' have the same tokens ")


def test_hidden_folders_and_files_are_skipped(tmp_path, bpe):
    make_artifact(tmp_path / "sst2")
    make_artifact(tmp_path / ".being-written")
    (tmp_path / "notes.txt").write_text("not an artifact")
    tasks = registry(tmp_path, bpe)
    assert list(tasks.tasks) == ["sst2"]
    assert tasks.refused == {}


def test_folders_whose_name_is_no_text_are_skipped(tmp_path, bpe):
    """Listed as refused, such a name could not be sent to anybody."""
    make_artifact(tmp_path / "sst2")
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    tasks = registry(tmp_path, bpe)
    assert (list(tasks.tasks), tasks.refused) == (["sst2"], {})
    assert tasks.refresh({"caf\udce9"}) == {}


def test_an_empty_folder_serves_nothing(tmp_path, bpe):
    tasks = registry(tmp_path, bpe)
    assert (tasks.tasks, tasks.refused) == ({}, {})


def test_a_missing_folder_is_refused(tmp_path, bpe):
    with pytest.raises(ArtifactError) as caught:
        registry(tmp_path / "none", bpe)
    assert str(caught.value) == (
        f"tasks directory {tmp_path / 'none'} cannot be read (No such file or directory); create "
        "it or fix the path"
    )


# -- names nobody loaded


def not_found(tasks, name):
    with pytest.raises(TaskNotFoundError) as caught:
        tasks.get(name)
    return str(caught.value)


def test_an_unknown_name_is_answered_with_those_loaded(tmp_path, bpe):
    for name in ("trec", "sst2"):
        make_artifact(tmp_path / name, name=name)
    assert not_found(registry(tmp_path, bpe), "agnews") == (
        "task 'agnews' is not loaded (loaded: 'sst2', 'trec'); put its artifact folder under the "
        "tasks directory"
    )


def test_an_unknown_name_with_nothing_loaded(tmp_path, bpe):
    assert "(loaded: none)" in not_found(registry(tmp_path, bpe), "agnews")


def test_many_loaded_names_are_counted_not_listed(tmp_path, bpe):
    for number in range(NAMES_IN_ERROR + 2):
        make_artifact(tmp_path / f"task{number:02}", name=f"task{number:02}")
    tasks = registry(tmp_path, bpe)
    assert "'task18', 'task19' and 2 more)" in not_found(tasks, "agnews")


def test_the_name_of_a_refused_artifact_is_answered_with_the_reason(tmp_path, bpe):
    make_artifact(tmp_path / "sst2")
    (tmp_path / "sst2" / TASK_FILE).unlink()
    assert (
        "(loaded: none); its artifact was refused: sst2: cannot read task.json: No such file or "
        "directory; put its artifact folder"
    ) in not_found(registry(tmp_path, bpe), "sst2")


# -- digest -> folder


@pytest.fixture
def touch():
    """Moves a folder's modification time on, whatever the resolution of the clock."""
    return lambda folder: os.utime(folder, ns=(0, folder.stat().st_mtime_ns + 1_000_000_000))


def test_the_index_finds_artifacts_by_content(tmp_path):
    one, two = (make_artifact(tmp_path / name, name=name).digest for name in ("one", "two"))
    index = ArtifactIndex(tmp_path)
    assert (index.find(one), index.find(two)) == ([tmp_path / "one"], [tmp_path / "two"])


def test_the_index_reads_again_when_an_artifact_is_added(tmp_path, touch):
    index = ArtifactIndex(tmp_path)
    index.find(make_artifact(tmp_path / "one", name="one").digest)
    added = make_artifact(tmp_path / "two", name="two").digest
    touch(tmp_path)
    assert index.find(added) == [tmp_path / "two"]


def test_the_index_reads_again_when_an_artifact_is_replaced(tmp_path, touch):
    index = ArtifactIndex(tmp_path)
    index.find(make_artifact(tmp_path / "sst2").digest)
    replaced = make_artifact(tmp_path / "sst2", seed=1).digest
    touch(tmp_path)
    assert index.find(replaced) == [tmp_path / "sst2"]


def test_the_index_finds_an_artifact_that_was_renamed(tmp_path, touch):
    index = ArtifactIndex(tmp_path)
    digest = make_artifact(tmp_path / "old").digest
    index.find(digest)
    (tmp_path / "old").rename(tmp_path / "new")
    touch(tmp_path)
    assert index.find(digest) == [tmp_path / "new"]


def test_the_index_finds_an_artifact_whose_files_were_copied_in_late(tmp_path, touch):
    """`cp -r` makes the folder first and its files later; only the sub-folder changes then."""
    digest = make_artifact(tmp_path / ".elsewhere" / "sst2").digest
    (tmp_path / "sst2").mkdir()
    index = ArtifactIndex(tmp_path)
    with pytest.raises(ArtifactError):
        index.find(digest)
    for name in (VECTORS_FILE, TASK_FILE):
        (tmp_path / ".elsewhere" / "sst2" / name).rename(tmp_path / "sst2" / name)
    assert index.find(digest) == [tmp_path / "sst2"]


def test_the_index_does_not_read_again_while_nothing_changed(tmp_path, monkeypatch):
    make_artifact(tmp_path / "sst2")
    reads = []
    monkeypatch.setattr(
        "ifedicl_serve.tasks.index._held", lambda path: reads.append(path) or "digest"
    )
    index = ArtifactIndex(tmp_path)
    for _ in range(3):
        with pytest.raises(ArtifactError):
            index.find("unknown")
    assert reads == [str(tmp_path / "sst2")]


def test_the_index_reads_again_what_could_not_be_read_for_a_moment(tmp_path, monkeypatch):
    digest = make_artifact(tmp_path / "sst2").digest
    with monkeypatch.context() as patch:
        patch.setattr(
            "ifedicl_serve.tasks.index.read_file", lambda path, limit: open("/dev/null/x")
        )
        index = ArtifactIndex(tmp_path)
    assert index.find(digest) == [tmp_path / "sst2"]


def test_the_index_skips_broken_artifacts(tmp_path):
    digest = make_artifact(tmp_path / "sst2").digest
    (tmp_path / "broken").mkdir()
    assert ArtifactIndex(tmp_path).find(digest) == [tmp_path / "sst2"]


def test_an_unknown_digest_is_refused(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        ArtifactIndex(tmp_path).find("0" * 64)
    assert str(caught.value) == (
        f"no artifact with digest {'0' * 16} under {tmp_path}; was it removed?"
    )


def test_a_folder_that_vanished_is_refused(tmp_path):
    index = ArtifactIndex(tmp_path / "none")
    with pytest.raises(ArtifactError, match=f"tasks directory {index.folder}"):
        index.find("0" * 64)
