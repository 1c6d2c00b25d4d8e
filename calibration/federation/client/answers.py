"""What a client has answered to a private federation, kept on its disk and given again.

The accountant of differential privacy counts each step of an invitation once; a second answer,
under fresh noise, would spend more than the artifact records. Flower forgets a client's memory
with every run and every restart, and a resumed federation is a new run. So the answers lie in a
folder per invitation, each written before it is sent. Whoever removes a folder spends anew.
"""

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from calibration.data.examples import Example
from calibration.federation.wire.invitation import Invitation
from calibration.state import fingerprint
from ifedicl_serve.errors import FederationError
from ifedicl_serve.files.writing import write_file

ROWS_FILE, LOCK_FILE = "rows", "lock"


class Answers:
    """The answers to one invitation, under `folder`, from the rows that are fitted to."""

    def __init__(self, folder: Path, invitation: Invitation, rows: Sequence[Example]) -> None:
        asked = hashlib.sha256(invitation.model_dump_json().encode()).hexdigest()
        self.folder = folder / asked
        self.rows = fingerprint([(row.text, row.label) for row in rows])

    def once(self, step: str, answer: Callable[[], RecordDict]) -> RecordDict:
        """The first answer to a step, whatever is asked. Raises FederationError if the answers
        before are of other rows."""
        path = self.folder / f"{step}.binpb"
        with self._locked():  # Flower runs messages of several runs at once
            self._refuse_other_rows()
            if not path.exists():
                write_file(path, recorddict_to_proto(answer()).SerializeToString())
            return recorddict_from_proto(RecordDictProto.FromString(path.read_bytes()))

    def _refuse_other_rows(self) -> None:
        path = self.folder / ROWS_FILE
        if not path.exists():
            write_file(path, self.rows.encode())
        if path.read_text(encoding="utf-8") != self.rows:
            raise FederationError(
                "has answered this before, with other rows, and its privacy was counted for those; "
                "ask with another --seed for a new answer"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK_FILE).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
