"""The artifact folder's entries without their content: names, stamps that tell a change, digests.

Paths are strings here: there are thousands, and making a Path takes longer than the look.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ifedicl_serve.artifact import MAX_TASK_FILE_BYTES, TASK_FILE, VECTORS_FILE
from ifedicl_serve.errors import ArtifactError

FileStamp = tuple[int, int, int] | None  # None: no such file
Stamp = tuple[int, FileStamp, FileStamp]  # of a folder, its task.json and its vectors


def artifact_folders(folder: Path) -> Iterator[str]:
    """Names of what may be an artifact; hidden ones are being written."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise ArtifactError(
            f"tasks directory {folder} cannot be read ({error.strerror}); create it or fix the path"
        ) from error
    return (name for name in names if not name.startswith("."))


class ArtifactIndex:
    """Digest -> artifact folder, for workers. A task.json is read again when it has changed.

    One that is known and unchanged costs one look at its file; all are looked at otherwise.
    Only names content: what it finds is for `load_artifact` to check.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[FileStamp, str | None]] = {}  # None: cannot be read
        self._paths: dict[str, str] = {}
        with suppress(ArtifactError):  # whoever asks for an artifact is told
            self._refresh()

    def find(self, digest: str) -> Path:
        """The artifact folder with that content. Raises ArtifactError if there is none."""
        path = self._paths.get(digest)
        if path is None or self._known[path][0] != _file_stamp(f"{path}/{TASK_FILE}"):
            self._refresh()
        if digest not in self._paths:
            raise ArtifactError(
                f"no artifact with digest {digest[:16]} under {self.folder}; was it removed?"
            )
        return Path(self._paths[digest])

    def _refresh(self) -> None:
        paths = [f"{self.folder}/{name}" for name in sorted(artifact_folders(self.folder))]
        stamps = {path: _file_stamp(f"{path}/{TASK_FILE}") for path in paths}
        known = self._known
        self._known = {
            path: known[path] if path in known and known[path][0] == stamp else (stamp, _held(path))
            for path, stamp in stamps.items()
            if stamp is not None
        }
        self._paths = {digest: path for path, (_, digest) in self._known.items() if digest}


def folder_stamp(folder: str) -> Stamp | None:
    """Changes when the folder is renamed and when a file is written, replaced or removed.

    None if there is no such folder.
    """
    try:
        status = os.stat(folder)
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None
    task, vectors = (_file_stamp(f"{folder}/{name}") for name in (TASK_FILE, VECTORS_FILE))
    return status.st_ctime_ns, task, vectors


def _file_stamp(path: str) -> FileStamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size


def _held(folder: str) -> str | None:
    """The digest of what is there: that of task.json, which vouches for the vectors."""
    try:
        with open(f"{folder}/{TASK_FILE}", "rb") as file:
            return hashlib.sha256(file.read(MAX_TASK_FILE_BYTES + 1)).hexdigest()
    except OSError:  # the registry says why
        return None
