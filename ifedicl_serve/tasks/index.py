"""The artifact folder's entries without their content: names, stamps that tell a change, digests.

Paths are strings here: there are thousands, and making a Path takes longer than the look.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ifedicl_serve.contract.artifact import MAX_TASK_FILE_BYTES, TASK_FILE, VECTORS_FILE
from ifedicl_serve.contract.signing import SIGNATURE_FILE
from ifedicl_serve.contract.text import is_unicode
from ifedicl_serve.errors import ArtifactError
from ifedicl_serve.files.reading import read_file

FileStamp = tuple[int, int, int] | None  # None: no such file
Stamp = tuple[int, tuple[FileStamp, ...]]  # of a folder, and of its STAMPED files
STAMPED = (TASK_FILE, VECTORS_FILE, SIGNATURE_FILE)


def may_be_artifact(name: str) -> bool:
    """Hidden folders are being written, and a name that is no text could be told to nobody."""
    return not name.startswith(".") and is_unicode(name)


def artifact_folders(folder: Path) -> Iterator[str]:
    """Names of what may be an artifact."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise ArtifactError(
            f"tasks directory {folder} cannot be read ({error.strerror}); create it or fix the path"
        ) from error
    return filter(may_be_artifact, names)


class ArtifactIndex:
    """Digest -> artifact folder, for workers. A task.json is read again when it has changed.

    One that is known and unchanged costs one look at its file; all are looked at otherwise.
    Only names content: what it finds is for `load_artifact` to check.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[FileStamp, str]] = {}
        self._paths: dict[str, list[str]] = {}
        with suppress(ArtifactError):  # whoever asks for an artifact is told
            self._refresh()

    def find(self, digest: str) -> list[Path]:
        """The artifact folders with that content. Raises ArtifactError if there is none."""
        paths = self._paths.get(digest, [])
        if not paths or any(self._known[p][0] != _file_stamp(f"{p}/{TASK_FILE}") for p in paths):
            self._refresh()
        if digest not in self._paths:
            raise ArtifactError(
                f"no artifact with digest {digest[:16]} under {self.folder}; was it removed?"
            )
        return [Path(path) for path in self._paths[digest]]

    def _refresh(self) -> None:
        paths = [f"{self.folder}/{name}" for name in sorted(artifact_folders(self.folder))]
        known, self._known, self._paths = self._known, {}, {}
        for path in paths:
            stamp = _file_stamp(f"{path}/{TASK_FILE}")
            before = known.get(path)
            digest = before[1] if before and before[0] == stamp else _held(path)
            if digest:  # else it is read again next time, as what failed may pass
                self._known[path] = stamp, digest
                self._paths.setdefault(digest, []).append(path)


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
    return status.st_ctime_ns, tuple(_file_stamp(f"{folder}/{name}") for name in STAMPED)


def _file_stamp(path: str) -> FileStamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size


def _held(folder: str) -> str | None:
    """The digest of what is there: that of task.json, which vouches for the vectors."""
    try:
        raw = read_file(f"{folder}/{TASK_FILE}", MAX_TASK_FILE_BYTES + 1)
        return hashlib.sha256(raw).hexdigest()
    except OSError:  # the registry says why
        return None
