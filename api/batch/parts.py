"""The finished chunks of a run, as Arrow files in a folder beside its output.

A killed run leaves whole files only, and a record of what it was a run of: the same command goes
on after the last of them, any other is refused. The folder goes when the output is there. While a
process is at a run it holds a lock beside the folder, so that no other one is.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ifedicl_serve.errors import DataError
from ifedicl_serve.files.writing import replaced_file

RECORD = "run.json"
COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Parts:
    """Chunks 0, 1, 2, ... of one run."""

    folder: Path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is at this run until the body ends, or the process dies.

        Raises DataError if another process is.
        """
        path = self.folder.with_name(f".{self.folder.name}.lock")
        with path.open("w") as file:
            if not _locked(file):
                raise DataError(
                    f"another process is classifying into {self.folder}; wait until it ends, or "
                    "choose another --output"
                )
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def begin(self, record: Record) -> None:
        """Start, or go on with, the run that `record` (of JSON values) describes.

        Raises DataError, naming what differs, if the folder has chunks of another run.
        """
        path = self.folder / RECORD
        with _written(path, self.folder) as staged:
            if self.finished():
                self._refuse_other(_read(path), record)
            else:  # what is left of a run whose chunks were being removed
                for left in self.folder.glob("*.arrow"):
                    left.unlink()
            staged.write_text(json.dumps(record, indent=2) + "\n")

    def _refuse_other(self, seen: Record, record: Record) -> None:
        differing = [name for name in {**seen, **record} if seen.get(name) != record.get(name)]
        if differing:
            changes = "; ".join(
                f"{name} was {seen.get(name)}, is {record.get(name)}" for name in differing
            )
            raise DataError(
                f"{self.folder} holds an unfinished run with other settings ({changes}); repeat "
                "that one to finish it, or remove the folder to start afresh"
            )

    def finished(self) -> int:
        """How many chunks are there."""
        return next(number for number in count() if not self._path(number).exists())

    def write(self, number: int, table: pa.Table) -> None:
        """Add a chunk, whole or not at all. Raises DataError if it cannot be written."""
        with _written(self._path(number), self.folder) as staged:
            with pa.ipc.new_stream(staged, table.schema, options=COMPRESSED) as writer:
                writer.write_table(table)

    def read(self, number: int) -> pa.Table:
        """A chunk as it was written."""
        with pa.OSFile(str(self._path(number))) as file, pa.ipc.open_stream(file) as reader:
            return reader.read_all()

    def output(self, path: Path) -> AbstractContextManager[Path]:
        """Where to write what becomes `path`, whole. Raises DataError if it cannot be written."""
        return _written(path, self.folder)

    def remove(self) -> None:
        """Forget all chunks."""
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.arrow"


def _locked(file: IO[str]) -> bool:
    """Whether the lock is ours: not if somebody has it, or removed it between our open and now."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an engine forked from here has no part
    except BlockingIOError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0


@contextmanager
def _written(path: Path, folder: Path) -> Iterator[Path]:
    """As `replaced_file`, staged in a run's folder. Raises DataError if it cannot be written."""
    try:
        folder.mkdir(exist_ok=True)
        with replaced_file(path, folder) as staged:
            yield staged
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; what is finished is kept, run the "
            "same command again to go on"
        ) from error


def _read(path: Path) -> Record:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); remove its folder to start afresh"
        ) from error
