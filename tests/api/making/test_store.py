"""Jobs as files: seen by everybody, and lost with the process that has them."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from api.making.store import FOLDER, KEPT, JobStore, new_id
from ifedicl_serve.errors import FolderError, FolderFullError, JobNotFoundError
from ifedicl_serve.schema_jobs import Job


def job(status="queued", **changes):
    fields = {"id": new_id(), "task": "banking", "progress": 0.0, "created": 1, "status": status}
    return Job(**(fields | changes))


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path)


def test_a_job_is_seen_while_it_is_owned_and_afterwards(store, tmp_path):
    mine, elsewhere = job(), JobStore(tmp_path)
    with store.owning(mine):
        assert elsewhere.get(mine.id) == mine
        done = mine.model_copy(update={"status": "done"})
        store.save(done)
        assert elsewhere.all() == [done]
    assert elsewhere.get(mine.id) == done
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [f"{mine.id}.json"]


def test_a_job_that_nobody_owns_and_that_has_not_ended_is_lost(store):
    mine = job("reading")
    with store.owning(mine):
        pass
    lost = store.get(mine.id)
    assert lost.status == "failed"
    assert lost.error.message.startswith("the server that ran this job has stopped; send the exam")


def test_a_job_is_lost_with_its_process(store, tmp_path):
    """Killed: the kernel takes the lock from it."""
    code = (
        "import sys, pathlib\n"
        "from api.making.store import JobStore\n"
        "from tests.api.making.test_store import job\n"
        "mine = job('fitting')\n"
        "store = JobStore(pathlib.Path(sys.argv[1]))\n"
        "with store.owning(mine), store.turn(mine.id) as ours:\n"
        "    print(mine.id, ours, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, text=True, **pipes) as process:
        job_id, ours = process.stdout.readline().split()
        assert ours == "True"
        assert store.get(job_id).status == "fitting"
        with store.turn(job().id) as mine:
            assert not mine
        process.kill()
        process.wait()
    assert store.get(job_id).status == "failed"
    with store.turn(job().id) as mine:
        assert mine


def test_it_is_one_owners_turn_at_a_time(store, tmp_path):
    one, other = job(), job()
    with store.owning(one), store.turn(one.id) as first:
        with JobStore(tmp_path).turn(other.id) as second:
            assert (first, second) == (True, False)


def test_an_older_job_of_another_process_goes_first(store, tmp_path):
    older, younger = job(), job()
    with store.owning(younger):
        with JobStore(tmp_path).owning(older), store.turn(younger.id) as ours:
            assert not ours
        with JobStore(tmp_path).owning(older), store.turn(older.id) as ours:
            assert ours
        with store.turn(younger.id) as ours:  # the older one has ended
            assert ours


def test_the_owner_learns_that_somebody_stops_a_job(store, tmp_path):
    mine = job()
    with store.owning(mine):
        assert not store.is_stopped(mine.id)
        JobStore(tmp_path).stop(mine)
        assert store.is_stopped(mine.id)
    store.stop(mine.model_copy(update={"status": "done"}))
    assert not store.is_stopped(mine.id)


def test_the_newest_come_first_and_the_oldest_that_ended_are_forgotten(store):
    ids = []
    for _ in range(KEPT + 3):
        one = job("done")
        with store.owning(one):
            ids.append(one.id)
    assert [one.id for one in store.all()] == ids[:1:-1]
    with pytest.raises(JobNotFoundError, match="the last 100 that ended are kept"):
        store.get(ids[0])


@pytest.mark.parametrize("job_id", ["", "../secret", "A" * 32, "0" * 32, "0" * 32 + "\n"])
def test_an_id_that_is_none_reaches_no_path(store, tmp_path, job_id):
    (tmp_path / "secret.json").write_text("{}")
    with pytest.raises(JobNotFoundError):
        store.get(job_id)


def test_a_file_that_is_no_job_is_none(store, tmp_path):
    (tmp_path / FOLDER).mkdir()
    name = new_id()
    (tmp_path / FOLDER / f"{name}.json").write_text('{"id": 1}')
    assert store.all() == []
    with pytest.raises(JobNotFoundError):
        store.get(name)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EROFS, FolderError), (errno.ENOSPC, FolderFullError)]
)
def test_a_folder_that_takes_no_job_is_said_so(store, monkeypatch, number, kind):
    """Tests run as root, who may write anywhere: the system's answer is made up."""

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pathlib.Path.rename", fail)
    with pytest.raises(kind), store.owning(job()):
        pass
    assert store.all() == []
    assert os.listdir(store.folder) == []


def test_one_job_is_admitted_at_a_time(store, tmp_path):
    with store.admitting():
        handle = os.open(tmp_path / FOLDER / "admission.lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
