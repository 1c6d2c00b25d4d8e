"""The artifact folder as the server sees it: tasks that serve, and refusals with reasons.

Every sub-folder is one artifact. A bad one never stops the others. What is served is a
function of the folder alone, so all processes that read it agree. When to look is not decided
here: somebody else calls `refresh`.
"""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from ifedicl_serve.contract.artifact import load_artifact, read_spec, refuse_other_model
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.signing import TrustedKeys
from ifedicl_serve.errors import ArtifactError, IFedICLError, TaskNotFoundError
from ifedicl_serve.tasks.entry import Entry, generation_of, may_pass, serving_of
from ifedicl_serve.tasks.index import Stamp, artifact_folders, folder_stamp, may_be_artifact
from ifedicl_serve.tasks.task import ListedTask, Task, unavailable

NAMES_IN_ERROR = 20
# Artifacts checked to the last byte by one `refresh`; the others follow, or are when asked for.
CHECKS_PER_REFRESH = 64
# An artifact is replaced by two renames; between them its folder is not there.
BETWEEN_RENAMES_S = 0.05


class TaskRegistry:
    """All artifacts of a folder, validated for one base model and its tokenizer.

    With `trusted` keys only what one of them signed serves, and never a task with one of the
    `taken` names: those of the server's models, which a request for the name would get instead.

    All may be called from several threads: `refresh` replaces what readers see in one step, and an
    artifact is checked once.
    """

    def __init__(
        self,
        folder: Path,
        model: ModelIdentity,
        tokenizer: Any,
        trusted: TrustedKeys | None = None,
        taken: frozenset[str] = frozenset(),
    ) -> None:
        self.folder = folder
        self.model = model
        self.tokenizer = tokenizer
        self.trusted = trusted
        self.taken = taken
        self._entries: dict[str, Entry] = {}  # by sub-folder, in name order
        self._serving: dict[str, Entry] = {}  # by task name
        self._names: list[str] = []  # of those, sorted
        # Told what `refresh` returns, whoever called it, if anything changed.
        self.on_change: Callable[[dict[str, str]], None] = lambda changed: None
        self._checking = Lock()
        self._refreshing = Lock()  # two at once would each publish without the other's news
        self.refresh()

    @property
    def tasks(self) -> dict[str, ListedTask]:
        """The tasks that serve, by name."""
        states = {name: entry.state for name, entry in self._serving.items()}
        return {name: state for name, state in states.items() if isinstance(state, ListedTask)}

    @property
    def refused(self) -> dict[str, str]:
        """Why a sub-folder does not serve, by its name."""
        reasons = {name: self._refusal(name, entry) for name, entry in self._entries.items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def get(self, name: str) -> Task:
        """The task of that name. Raises TaskNotFoundError naming some that are loaded."""
        entry = self._serving.get(name)
        if entry is not None:
            if entry.unchecked:
                self._check(entry)
            if isinstance(entry.state, Task):
                return entry.state
        raise TaskNotFoundError(self._not_found(name))

    def reads(self, name: str) -> bool:
        """Whether `get` has to read files, which may take seconds for a thousand labels."""
        entry = self._serving.get(name)
        return entry is not None and entry.unchecked

    def successor(self, task: Task) -> Task:
        """What its name stands for by now, for a task that no worker could load.

        Raises TaskUnavailableError if that is the same, TaskNotFoundError if it is gone.
        """
        self.refresh({task.folder.name})
        found = self.get(task.name)
        if (found.digest, found.generation) == (task.digest, task.generation):
            raise unavailable(task)
        return found

    def refresh(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """Read again what has changed: in these sub-folders, or (None) in the whole folder.

        Returns what became of each sub-folder that changed, for a log. Raises ArtifactError if
        the folder cannot be read; what was served still is then.
        """
        with self._refreshing:
            changed = self._refresh(names)
            if changed:
                self.on_change(changed)
            return changed

    def check(self, folder: Path, digest: str | None = None, generation: str = "") -> Task:
        """The folder's task, if it has all it needs to serve here. Raises ArtifactError or
        PromptError."""
        artifact = load_artifact(folder, self.model, digest, self.trusted)
        self._refuse_taken(folder, artifact.spec.name)
        return Task.of(artifact, self.tokenizer, folder, generation)

    def folders_of(self, name: str) -> list[Path]:
        """Sub-folders that hold a task of that name; the first is the one that serves."""
        states = [entry.state for entry in self._entries.values()]
        return [s.folder for s in states if isinstance(s, ListedTask) and s.name == name]

    def _refresh(self, names: Iterable[str] | None) -> dict[str, str]:
        if names is None:
            names = {*self._entries, *artifact_folders(self.folder)}
        entries, changed = self._read_again(names)
        serving = serving_of(entries.values())
        # What `get` refused meanwhile. Looked at after `serving`, so that none is missed.
        changed |= {entry.name for entry in self._serving.values() if isinstance(entry.state, str)}
        if changed:
            self._entries, self._serving = entries, serving
            self._names = sorted(serving)
        return {name: self._outcome(name) for name in sorted(changed)}

    def _read_again(self, names: Iterable[str]) -> tuple[dict[str, Entry], set[str]]:
        """All entries by now, in name order, and which of them changed."""
        entries = dict(self._entries)
        changed = set()
        unreadable = {}
        for name, stamp in self._stamps(names).items():
            known = entries.get(name)
            if stamp is None and known is not None:
                changed.add(name)
                del entries[name]
            elif stamp is not None and (known is None or known.stamp != stamp):
                entry = self._listed(name, stamp)
                # Another stamp by now: it is being written, and is read next time.
                if folder_stamp(f"{self.folder}/{name}") == stamp:
                    changed.add(name)
                    entries[name] = entry
                    if known is not None and known.stamp is None:
                        unreadable[name] = known.state
        for name in self._unchecked(entries, changed):
            self._check(entries[name])
            if isinstance(entries[name].state, str):
                changed.add(name)
        changed -= {name for name, state in unreadable.items() if entries[name].state == state}
        return dict(sorted(entries.items())), changed

    def _unchecked(self, entries: dict[str, Entry], changed: set[str]) -> list[str]:
        """The next to check, those that just changed first."""
        listed = [name for name, entry in entries.items() if entry.unchecked]
        return sorted(listed, key=lambda name: (name not in changed, name))[:CHECKS_PER_REFRESH]

    def _outcome(self, name: str) -> str:
        entry = self._entries.get(name)
        if entry is None:
            return "removed"
        refusal = self._refusal(name, entry)
        if refusal is not None or isinstance(entry.state, str):
            return f"refused, {refusal}"
        return f"serves task {entry.state.name!r}, {entry.state.digest[:16]}"

    def _stamps(self, names: Iterable[str]) -> dict[str, Stamp | None]:
        def stamped(names: Iterable[str]) -> dict[str, Stamp | None]:
            return {name: folder_stamp(f"{self.folder}/{name}") for name in names}

        stamps = stamped(filter(may_be_artifact, names))
        gone = [name for name in stamps if stamps[name] is None and name in self._entries]
        if gone:
            time.sleep(BETWEEN_RENAMES_S)
            stamps |= stamped(gone)
        return stamps

    def _listed(self, name: str, stamp: Stamp) -> Entry:
        path = self.folder / name
        try:
            spec, digest = read_spec(path)
            if self.trusted is not None:
                self.trusted.signer_of(path, digest)
            refuse_other_model(path, spec, self.model)
            self._refuse_taken(path, spec.name)
        except IFedICLError as error:
            return Entry(name, None if may_pass(error) else stamp, self._reason(error))
        return Entry(name, stamp, ListedTask(spec, digest, generation_of(stamp), path))

    def _refuse_taken(self, folder: Path, name: str) -> None:
        if name in self.taken:
            raise ArtifactError(
                f"{folder}: task {name!r} has the name of a model of this server, which a request "
                "for it would get, unadapted; rename the task in its task.json, or the model with "
                "--served-model-name"
            )

    def _check(self, entry: Entry) -> None:
        """Turn a listed task into one ready to serve, or into the reason why it is not."""
        with self._checking:
            listed = entry.state
            if isinstance(listed, Task | str):  # by another thread
                return
            try:
                entry.state = self.check(listed.folder, listed.digest, listed.generation)
            except IFedICLError as error:
                if may_pass(error):
                    entry.stamp = None
                entry.state = self._reason(error)

    def _reason(self, error: IFedICLError) -> str:
        return str(error).replace(f"{self.folder}/", "")

    def _refusal(self, name: str, entry: Entry) -> str | None:
        if isinstance(entry.state, str):
            return entry.state
        serving = self._serving.get(entry.state.name, entry)
        if serving is entry or not isinstance(serving.state, ListedTask):
            return None
        return (
            f"{name}: task {entry.state.name!r} is already served from "
            f"{serving.state.folder.name}; rename one of them in its task.json"
        )

    def _not_found(self, name: str) -> str:
        others = (known for known in self._names if known != name)
        available = ", ".join(map(repr, islice(others, NAMES_IN_ERROR))) or "none"
        more = len(self._names) - (name in self._serving) - NAMES_IN_ERROR
        if more > 0:
            available += f" and {more} more"
        entry = self._entries.get(name)
        refused = self._refusal(name, entry) if entry else None
        because = f"; its artifact was refused: {refused}" if refused else ""
        return (
            f"task {name!r} is not loaded (loaded: {available}){because}; put its artifact "
            "folder under the tasks directory"
        )
