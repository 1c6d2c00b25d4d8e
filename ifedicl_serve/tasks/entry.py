"""A sub-folder of the artifact folder, as it was when it was read last."""

import errno
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ifedicl_serve.errors import IFedICLError
from ifedicl_serve.tasks.index import Stamp
from ifedicl_serve.tasks.task import ListedTask


@dataclass(eq=False)
class Entry:
    """A sub-folder as it was when it had this stamp: a task, or why it is none.

    Without a stamp it could not be read, and is read again when it is looked at next.
    """

    name: str
    stamp: Stamp | None
    state: ListedTask | str

    @property
    def unchecked(self) -> bool:
        """Whether its tensors and labels are yet to be read."""
        return type(self.state) is ListedTask


def serving_of(entries: Iterable[Entry]) -> dict[str, Entry]:
    """By task name, from the first sub-folder that has it."""
    serving: dict[str, Entry] = {}
    for entry in entries:
        if isinstance(entry.state, ListedTask):
            serving.setdefault(entry.state.name, entry)
    return serving


def generation_of(stamp: Stamp) -> str:
    return hashlib.blake2b(repr(stamp).encode(), digest_size=8).hexdigest()


def may_pass(error: IFedICLError) -> bool:
    """Whether a file could not be read for another reason than that there is none."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno not in (errno.ENOENT, errno.ENOTDIR)
