"""Changes the artifact folder while it serves: put a task, delete one, look again.

The counterpart of the registry, which only reads. What is put passes the registry's own checks
before anybody sees it, and a change has been read by this process's registry when a method
returns; other processes follow the folder. Knows no HTTP, and no path but sub-folders of the
folder that the registry listed itself or whose name is a TaskName.
"""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ifedicl_serve.contract.artifact import (
    TASK_FILE,
    VECTORS_FILE,
    max_vectors_bytes,
    read_spec,
    refuse_occupied,
)
from ifedicl_serve.contract.names import TaskName
from ifedicl_serve.contract.signing import SIGNATURE_FILE, read_signature
from ifedicl_serve.errors import (
    ArtifactError,
    FolderError,
    FolderFullError,
    IFedICLError,
    TaskNotFoundError,
    UploadError,
)
from ifedicl_serve.files.writing import remove_folder, write_folder
from ifedicl_serve.tasks.registry import TaskRegistry
from ifedicl_serve.tasks.task import Task

NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # what a folder is renamed over
FULL = (errno.ENOSPC, errno.EDQUOT)


class PlaceError(FolderError):
    """What is wrong with the folder or with other tasks in it: for the operator, not for others."""


class TaskEditor:
    """Puts and deletes tasks of a registry's folder.

    `num_layers` and `hidden_size` are those of the served model. Two changes at once, also of
    two processes, leave one of them whole; callers that take turns are each told of their own.
    """

    def __init__(self, registry: TaskRegistry, num_layers: int, hidden_size: int) -> None:
        self.registry = registry
        self.num_layers, self.hidden_size = num_layers, hidden_size

    @property
    def max_vectors_bytes(self) -> int:
        """More than `vectors.safetensors` of any task of the served model."""
        return max_vectors_bytes(self.num_layers, self.hidden_size)

    def refuse_unsigned(self, name: TaskName, replace: bool) -> None:
        """Raise FolderError if no task without a signature could be put as `name`; without
        `replace`, also if there is one."""
        with explained():
            self.refresh()
            if self.registry.trusted is not None:
                raise FolderError(
                    "this server serves signed tasks alone, and those it makes have no signature; "
                    "make the task with `ifedicl calibrate` and sign it"
                )
            if name in self.registry.taken:
                raise FolderError(f"{name!r} is a model of this server; choose another name")
            self._refuse_replacing(name, self._place_of(name), replace)

    def put(
        self,
        name: TaskName,
        task_file: bytes,
        vectors: bytes,
        signature: bytes | None = None,
        replace: bool = True,
    ) -> tuple[Task, bool]:
        """Make the files serve as task `name`: the task, and whether it replaced something, which
        it does only with `replace`.

        Without a signature the task has none, also where it replaces a signed one.

        A task that another sub-folder already serves under that name is replaced there: put
        beside it, it would be a second one of that name, and refused. Raises UploadError for
        files that could not serve, FolderError if the folder cannot take them; nothing has
        changed then.
        """
        with explained():
            self.refresh()
            folder = self._place_of(name)
            replaces = self._refuse_replacing(name, folder, replace)
            files = {TASK_FILE: task_file, VECTORS_FILE: vectors}
            if signature is not None:
                files[SIGNATURE_FILE] = signature
            written = self._written(name, folder, files, replace)
            self.registry.refresh({folder.name})
            return self._now_serving(name, written.digest), replaces

    def delete(self, name: TaskName) -> None:
        """Remove task `name`, or the refused artifact in the sub-folder `name`.

        Requests that run finish: workers keep what they have loaded until another task needs the
        slot. One that was accepted and whose task no worker had loaded yet is answered 503.
        Raises TaskNotFoundError, and FolderError if it cannot be removed.
        """
        with explained():
            self.refresh()
            folder = self._folder_to_delete(name)
            try:
                remove_folder(folder)
            except FileNotFoundError as error:
                raise TaskNotFoundError(
                    f"task {name!r} was removed by somebody else meanwhile; nothing is left to do"
                ) from error
            self.registry.refresh({folder.name})

    def refresh(self) -> dict[str, str]:
        """Look at the whole folder now; what became of each sub-folder that changed."""
        try:
            return self.registry.refresh()
        except ArtifactError as error:
            raise PlaceError(str(error)) from error

    def _place_of(self, name: TaskName) -> Path:
        folders = self.registry.folders_of(name)
        if folders:
            return folders[0]
        folder = self.registry.folder / name
        for task in self.registry.tasks.values():
            if task.folder == folder:
                raise PlaceError(
                    f"the sub-folder {name} serves task {task.name!r}, so task {name!r} cannot be "
                    "put there; upload it under another name, or delete that task first"
                )
        try:
            refuse_occupied(folder)
        except ArtifactError as error:
            raise PlaceError(
                f"the tasks directory holds something named {name} that is no task, so it is not "
                "replaced; upload the task under another name"
            ) from error
        return folder

    def _refuse_replacing(self, name: TaskName, folder: Path, replace: bool) -> bool:
        """Whether there is an artifact in that place. Raises FolderError if it is to be left."""
        replaces = (folder / TASK_FILE).is_file()
        if replaces and not replace:
            raise _left(name)
        return replaces

    def _written(
        self, name: TaskName, folder: Path, files: Mapping[str, bytes], replace: bool
    ) -> Task:
        try:
            return write_folder(folder, files, partial(self._checked, name), replace)
        except OSError as error:
            if not replace and error.errno in OCCUPIED:  # since it was looked at
                raise _left(name) from error
            raise

    def _checked(self, name: TaskName, staged: Path) -> Task:
        """The task in `staged`, if it would serve as `name`."""
        try:
            spec, _ = read_spec(staged)
            if spec.name != name:
                raise UploadError(
                    f"task.json is that of task {spec.name!r}, not of {name!r}; upload it as "
                    f"{spec.name!r} or calibrate it under the other name"
                )
            if (spec.num_layers, spec.hidden_size) != (self.num_layers, self.hidden_size):
                raise UploadError(
                    f"{name}: made for {spec.num_layers} layers of width {spec.hidden_size}, the "
                    f"served model has {self.num_layers} of width {self.hidden_size}; calibrate "
                    "the task on it"
                )
            read_signature(staged)
            return self.registry.check(staged)
        except UploadError:
            raise
        except IFedICLError as error:
            raise UploadError(str(error).replace(str(staged), name)) from error

    def _now_serving(self, name: TaskName, digest: str) -> Task:
        task = self.registry.get(name)
        if task.digest != digest:
            raise FolderError(
                f"task {name!r} was written whole, but serves {task.digest[:16]} instead of "
                f"{digest[:16]}: somebody else changed it at the same time; look at it and, if "
                "need be, upload it again"
            )
        return task

    def _folder_to_delete(self, name: TaskName) -> Path:
        folders = self.registry.folders_of(name)
        if len(folders) > 1:
            listed = ", ".join(folder.name for folder in folders)
            raise FolderError(
                f"task {name!r} is in the sub-folders {listed}, and would serve from the next if "
                "one were deleted; delete those that are refused first, by their own names"
            )
        refused = self.registry.folder / name
        if not folders and name in self.registry.refused and (refused / TASK_FILE).is_file():
            return refused
        return self.registry.get(name).folder


def _left(name: TaskName) -> FolderError:
    return FolderError(
        f"there is a task {name!r}, and it was left as it is; send "
        '"replace": true to have another in its place, or choose another name'
    )


@contextmanager
def explained() -> Iterator[None]:
    """The two failures of a disk that an operator can do something about."""
    try:
        yield
    except OSError as error:
        if error.errno in NOT_WRITABLE:
            raise FolderError(
                f"the tasks directory cannot be changed ({error.strerror}); mount it writable and "
                "let the server's user own it, or change the tasks where they are written"
            ) from error
        if error.errno in FULL:
            raise FolderFullError(
                f"no space for the task ({error.strerror}), nothing was written; delete tasks or "
                "enlarge the disk"
            ) from error
        raise
