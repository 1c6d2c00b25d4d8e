"""Files and folders that appear, change and go whole. Knows nothing of tasks.

What is being written or removed lies beside its destination under a hidden name, so on the same
filesystem, where a rename is all that anybody sees. Several processes may change one folder at
once: one of them wins, whole. A process killed meanwhile leaves its hidden folder behind, which
nobody reads; killed between the two renames of a replacement, the old folder is in there.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

T = TypeVar("T")


def write_folder(
    folder: Path, files: Mapping[str, bytes], check: Callable[[Path], T], replace: bool = True
) -> T:
    """Write `files` to `folder`, replacing what is there; returns what `check` returned.

    `check` is given the files before anybody else sees them: if it raises, or if a write fails,
    nothing has changed and nothing is left. Without `replace` a folder with files in it is left as
    it is, and OSError raised.
    """
    # A network filesystem keeps removed files that somebody reads: hidden, they harm nobody.
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}.", ignore_cleanup_errors=True
    ) as temporary:
        staged = Path(temporary) / "new"
        staged.mkdir(mode=0o755)
        for name, content in files.items():
            _write_synced(staged / name, content)
        _sync_directory(staged)
        checked = check(staged)
        if replace:
            _rename_over(staged, folder, Path(temporary))
        else:
            staged.rename(folder)  # the kernel refuses it if files are there
        _sync_directory(folder.parent)
    return checked


@contextmanager
def replaced_file(path: Path, staging: Path | None = None) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` at the end, whole and synced.

    In the folder `staging` of the same filesystem, by default beside it. If the body raises,
    nothing has changed and nothing is left; of a process that is killed, this file is.
    """
    staged = (staging or path.parent) / f".{path.name}.{uuid4().hex}"
    try:
        yield staged
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.rename(path)
    finally:
        staged.unlink(missing_ok=True)
    _sync_directory(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write one file, replacing what is there in one step."""
    with replaced_file(path) as staged:
        staged.write_bytes(content)


def remove_folder(folder: Path) -> None:
    """Hide `folder`, then remove its files. Raises FileNotFoundError if it is not there.

    Of a symbolic link only the link goes. Needs no space: a full disk is emptied with it.
    """
    hidden = folder.with_name(f".{folder.name}.{uuid4().hex}")
    folder.rename(hidden)
    _sync_directory(folder.parent)
    if hidden.is_symlink():
        hidden.unlink()
    else:
        shutil.rmtree(hidden, ignore_errors=True)


def _rename_over(staged: Path, folder: Path, aside: Path) -> None:
    """Two renames, as a folder that is not empty cannot be renamed over.

    Begins again if another process put its own folder there in between. If the second rename
    fails for another reason, the old folder is put back.
    """
    for attempt in count():
        old = aside / f"old{attempt}"
        with suppress(FileNotFoundError):
            folder.rename(old)
        try:
            staged.rename(folder)
        except OSError as error:
            if os.path.lexists(folder):
                continue
            with suppress(OSError):
                old.rename(folder)
            raise error
        return


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
