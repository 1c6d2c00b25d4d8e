"""The artifact folder as the server sees it: tasks that serve, and refusals with reasons.

Every sub-folder is one artifact. A bad one never stops the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifedicl_serve.artifact import TASK_FILE, TaskSpec, load_artifact, read_spec
from ifedicl_serve.errors import ArtifactError, IFedICLError, TaskNotFoundError
from ifedicl_serve.identity import ModelIdentity
from ifedicl_serve.labels import LabelTrie
from ifedicl_serve.prompt import label_trie

NAMES_IN_ERROR = 20

Stamp = tuple[int, int] | None  # of a file: when it was written, and which it is


@dataclass(frozen=True)
class Task:
    """A task ready to serve: its spec, its content digest and its label trie."""

    spec: TaskSpec
    digest: str
    trie: LabelTrie
    folder: Path

    @property
    def name(self) -> str:
        return self.spec.name


class TaskRegistry:
    """All artifacts of a folder, validated for one base model and its tokenizer."""

    def __init__(self, folder: Path, model: ModelIdentity, tokenizer: Any) -> None:
        self.folder = folder
        self.model = model
        self.tasks: dict[str, Task] = {}
        self.refused: dict[str, str] = {}
        for path in artifact_folders(folder):
            try:
                self._add(path, tokenizer)
            except IFedICLError as error:
                self.refused[path.name] = str(error).replace(f"{folder}/", "")

    def _add(self, path: Path, tokenizer: Any) -> None:
        artifact = load_artifact(path, self.model)
        spec = artifact.spec
        if spec.name in self.tasks:
            raise ArtifactError(
                f"{path}: task {spec.name!r} is already served from "
                f"{self.tasks[spec.name].folder}; rename one of them in its task.json"
            )
        trie = label_trie(tokenizer, spec.prompt, spec.verbalizations)
        self.tasks[spec.name] = Task(spec, artifact.digest, trie, path)

    def get(self, name: str) -> Task:
        """The task of that name. Raises TaskNotFoundError naming those loaded."""
        try:
            return self.tasks[name]
        except KeyError:
            raise TaskNotFoundError(self._not_found(name)) from None

    def _not_found(self, name: str) -> str:
        if not self.tasks:
            available = "none"
        else:
            names = sorted(self.tasks)
            available = ", ".join(repr(known) for known in names[:NAMES_IN_ERROR])
            if len(names) > NAMES_IN_ERROR:
                available += f" and {len(names) - NAMES_IN_ERROR} more"
        refused = [reason for folder, reason in self.refused.items() if folder == name]
        because = f"; its artifact was refused: {refused[0]}" if refused else ""
        return (
            f"task {name!r} is not loaded (loaded: {available}){because}; put its artifact "
            "folder under the tasks directory and restart"
        )


def artifact_folders(folder: Path) -> Iterator[Path]:
    """Sub-folders that may hold an artifact, in name order; hidden ones are being written."""
    if not folder.is_dir():
        raise ArtifactError(f"tasks directory {folder} does not exist; create it or fix the path")
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield path


class ArtifactIndex:
    """Digest -> artifact folder. A task.json is read again when its file has changed.

    One that is known and unchanged costs one look at its file; all are looked at otherwise.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[Stamp, str | None]] = {}  # None: broken, serves nobody
        self._paths: dict[str, Path] = {}

    def find(self, digest: str) -> Path:
        """The artifact folder with that content. Raises ArtifactError if there is none."""
        path = self._paths.get(digest)
        if path is None or self._known[path][0] != _stamp(path / TASK_FILE):
            self._refresh()
        if digest not in self._paths:
            raise ArtifactError(
                f"no artifact with digest {digest[:16]} under {self.folder}; was it removed?"
            )
        return self._paths[digest]

    def _refresh(self) -> None:
        try:
            stamps = {path: _stamp(path / TASK_FILE) for path in artifact_folders(self.folder)}
        except OSError as error:
            raise ArtifactError(f"tasks directory {self.folder}: {error.strerror}") from error
        known = self._known
        self._known = {
            path: known[path] if path in known and known[path][0] == stamp else (stamp, _held(path))
            for path, stamp in stamps.items()
        }
        self._paths = {digest: path for path, (_, digest) in self._known.items() if digest}


def _stamp(path: Path) -> Stamp:
    """Changes when the file is written, replaced or removed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _held(path: Path) -> str | None:
    try:
        return read_spec(path)[1]
    except ArtifactError:  # the registry says why
        return None
