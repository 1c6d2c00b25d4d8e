"""Clients' rows under one fit, as readouts are fitted to them: every call is a message to each."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict

from calibration.federation.coordinator.checks import (
    refuse_curvature,
    refuse_losses,
    refuse_statistics,
)
from calibration.federation.coordinator.letters import Letters, Record
from calibration.federation.wire.messages import (
    ANSWER,
    ASK,
    ASKED,
    CURVATURES,
    LOSSES,
    STATISTICS,
    SUMS,
    Member,
    told_name,
)
from calibration.federation.wire.sums import (
    asked_record,
    curvatures_of,
    losses_of,
    statistics_of,
    statistics_record,
)
from calibration.readout.reader import added, curvatures_added, losses_added
from calibration.readout.stack import Asked, Curvature
from calibration.readout.statistics import Statistics
from ifedicl_serve.contract.spec import Fit

Answer = TypeVar("Answer")


class RemoteReaders:
    """A client that misses a message is left out of all that follow, so that sums stay over the
    same rows. `announced` says how many rows a client has to tell of."""

    def __init__(
        self,
        letters: Letters,
        clients: Sequence[int],
        fit: Fit,
        announced: Callable[[Member], int],
    ) -> None:
        self.letters, self.invitation = letters, letters.invitation
        self.clients, self.fit, self.announced = list(clients), fit, announced

    def statistics(self) -> list[Statistics]:
        """By fold, of all clients."""
        return added(self._ask(STATISTICS, {}, self._read_statistics))

    def learn(self, told: Sequence[Statistics]) -> None:
        """They go out with the next message."""
        self.letters.tell(told_name(SUMS, self.fit), statistics_record(told))

    def losses(self, asked: Sequence[Asked]) -> list[float]:
        """Summed over all clients."""
        return losses_added(self._ask_sums(LOSSES, asked, self._read_losses))

    def curvatures(self, asked: Sequence[Asked]) -> list[Curvature]:
        """Summed over all clients."""
        return curvatures_added(self._ask_sums(CURVATURES, asked, self._read_curvatures))

    def _ask_sums(
        self,
        kind: str,
        asked: Sequence[Asked],
        read: Callable[[int, RecordDict, Member], Answer],
    ) -> list[Answer]:
        request: dict[str, Record] = {ASKED: asked_record(asked)}
        return self._ask(kind, request, partial(read, len(asked)), count=len(asked))

    def _ask(
        self,
        kind: str,
        request: dict[str, Record],
        read: Callable[[RecordDict, Member], Answer],
        **numbers: int,
    ) -> list[Answer]:
        request = {ASK: ConfigRecord({"fit": self.fit, **numbers}), **request}
        answers = self.letters.ask(kind, self.clients, request, read)
        self.clients = list(answers)
        return list(answers.values())

    def _read_statistics(self, content: RecordDict, member: Member) -> list[Statistics]:
        statistics = statistics_of(content.array_records.get(ANSWER), self.invitation)
        refuse_statistics(statistics, self.announced(member))
        return statistics

    def _read_losses(self, count: int, content: RecordDict, member: Member) -> list[float]:
        losses = losses_of(content.array_records.get(ANSWER), count)
        refuse_losses(losses)
        return losses

    def _read_curvatures(self, count: int, content: RecordDict, member: Member) -> list[Curvature]:
        labels = len(self.invitation.labels)
        curvatures = curvatures_of(content.array_records.get(ANSWER), count, labels)
        refuse_losses([one.loss for one in curvatures])
        for one in curvatures:
            refuse_curvature(one)
        return curvatures
