"""Asking clients, and telling each thing once: what is new goes out with the next request, and all
that was told with a second one to a client that was restarted since.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from calibration.federation.coordinator.fleet import Fleet
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import (
    INVITATION,
    VECTOR,
    Member,
    tensor_record,
    told_name,
)
from calibration.settings import SiteFit
from calibration.state import State

Answer = TypeVar("Answer")
Record = ArrayRecord | ConfigRecord


class Letters:
    """To the clients of a fleet."""

    def __init__(self, fleet: Fleet, invitation: Invitation) -> None:
        self.fleet, self.invitation = fleet, invitation
        self.told: dict[str, Record] = {INVITATION: invitation.to_record()}  # when they joined
        self.news: dict[str, Record] = {}

    def tell(self, topic: str, record: Record) -> None:
        """Once."""
        if topic not in self.told:
            self.told[topic] = self.news[topic] = record

    def tell_values(self, state: State, fit: SiteFit, values: Tensor) -> str:
        """In place of earlier ones of the fit; and the vector they belong to. Returns what they are
        asked about by, their digest."""
        invitation = self.invitation
        assert state.context_vector is not None
        self.tell(VECTOR, tensor_record(state.context_vector, invitation.wire))
        record = tensor_record(values, invitation.values_wire(fit))
        name = told_name(fit, record.object_id)
        for older in [one for one in self.told if one.startswith(told_name(fit, ""))]:
            if older != name:
                del self.told[older]
        self.tell(name, record)
        return record.object_id

    def ask(
        self,
        kind: str,
        clients: Iterable[int],
        request: dict[str, Record],
        read: Callable[[RecordDict, Member], Answer],
    ) -> dict[int, Answer]:
        """Answers by client number, of as many as the quorum. Raises QuorumError."""
        news, self.news = self.news, {}
        answers = self.fleet.ask(
            kind, clients, RecordDict({**request, **news}), RecordDict(dict(self.told)), read
        )
        self.fleet.need(len(answers), f"answered {kind}")
        return answers
