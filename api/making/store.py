"""Jobs as files in a hidden sub-folder of the tasks directory, where every API process sees them.

A job's owner holds a lock (flock) on a file of its own until the job has ended, and the kernel
takes that from a process that ends: a job that has not ended and that nobody locks is lost.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from api.errors import error_info
from ifedicl_serve.errors import FolderError, JobNotFoundError, TaskUnavailableError
from ifedicl_serve.files.reading import read_file
from ifedicl_serve.files.writing import write_file
from ifedicl_serve.schema_jobs import FINAL, Job
from ifedicl_serve.tasks.editor import explained

FOLDER = ".jobs"
ID = re.compile(r"[0-9a-f]{32}")
KEPT = 100  # jobs that have ended
MAX_BYTES = 1 << 20  # of a job's file
LOST = TaskUnavailableError("the server that ran this job has stopped; send the examples again")


def unknown(job_id: str) -> JobNotFoundError:
    """What to raise for a job that is not there, or not the key's."""
    return JobNotFoundError(
        f"no job {job_id!r} is known; see GET /v1/jobs (the last {KEPT} that ended are kept)"
    )


def new_id() -> str:
    """Of a job: nobody guesses it, and a later one is greater."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


class JobStore:
    """The jobs of a tasks directory. What it reads and writes are small files."""

    def __init__(self, tasks: Path) -> None:
        self.folder = tasks / FOLDER

    @contextmanager
    def admitting(self) -> Iterator[None]:
        """Nobody else adds a job until the block ends. Raises FolderError."""
        with explained():
            self.folder.mkdir(exist_ok=True)
            handle = os.open(self.folder / "admission.lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def owning(self, job: Job) -> Iterator[None]:
        """Keep a job from now on, as this process's until the block ends.

        Raises FolderError if the folder cannot be written.
        """
        with explained():
            self.folder.mkdir(exist_ok=True)
            self._forget_the_oldest()
            lock = os.open(self._lock(job.id), os.O_CREAT | os.O_RDWR, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.save(job)
            except (OSError, FolderError):
                self._remove(job.id)
                os.close(lock)
                raise
        try:
            yield
        finally:
            self._lock(job.id).unlink(missing_ok=True)
            self._stop(job.id).unlink(missing_ok=True)
            os.close(lock)

    def save(self, job: Job) -> None:
        """What everybody sees of it. Raises FolderError."""
        with explained():
            write_file(self._file(job.id), job.model_dump_json().encode())

    def get(self, job_id: str) -> Job:
        """Raises JobNotFoundError."""
        if ID.fullmatch(job_id):
            with suppress(OSError, ValidationError):
                job = self._read(job_id)
                if job.status in FINAL or self._is_owned(job_id):
                    return job
                job = self._read(job_id)  # it may have ended before its lock was looked at
                return job if job.status in FINAL else lost(job)
        raise unknown(job_id)

    def all(self) -> list[Job]:
        """The newest first."""
        jobs = []
        for job_id in sorted(self._ids(), reverse=True):
            with suppress(JobNotFoundError):  # forgotten meanwhile
                jobs.append(self.get(job_id))
        return jobs

    def stop(self, job: Job) -> None:
        """Ask its owner to end it, unless it has ended. Raises FolderError."""
        if job.status not in FINAL:
            with explained():
                self._stop(job.id).touch()

    def is_stopped(self, job_id: str) -> bool:
        """Whether somebody has asked for that."""
        return self._stop(job_id).exists()

    @contextmanager
    def turn(self, job_id: str) -> Iterator[bool]:
        """Whether it is this job's turn to run, which it is until the block ends: no other runs,
        and no older one waits."""
        handle = os.open(self.folder / "turn.lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            yield _locked(handle, fcntl.LOCK_EX) and not any(
                older < job_id and self._is_owned(older) for older in self._ids()
            )
        finally:
            os.close(handle)

    def _read(self, job_id: str) -> Job:
        return Job.model_validate_json(read_file(self._file(job_id), MAX_BYTES))

    def _is_owned(self, job_id: str) -> bool:
        try:
            handle = os.open(self._lock(job_id), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not _locked(handle, fcntl.LOCK_SH)
        finally:
            os.close(handle)

    def _forget_the_oldest(self) -> None:
        ended = [job for job in self.all() if job.status in FINAL]
        for job in ended[KEPT:]:
            self._remove(job.id)

    def _remove(self, job_id: str) -> None:
        for path in (self._file(job_id), self._lock(job_id), self._stop(job_id)):
            path.unlink(missing_ok=True)

    def _ids(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [path.stem for path in self.folder.glob("*.json")]
        return []

    def _file(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"

    def _lock(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.lock"

    def _stop(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.stop"


def _locked(handle: int, kind: int) -> bool:
    """Whether nobody had locked it otherwise."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lost(job: Job) -> Job:
    """It, if its process has ended before it did."""
    return job.model_copy(update={"status": "failed", "error": error_info(LOST)})
