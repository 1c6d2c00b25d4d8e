"""Clients' rows as readouts are fitted to them: every call is a message to each."""

import logging
from collections.abc import Callable, Mapping, Sequence
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
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.fitting.reader import added, curvatures_added, losses_added
from ifedicl_serve.fitting.stack import Asked, Curvature, FewerRows
from ifedicl_serve.fitting.statistics import Statistics

logger = logging.getLogger("flwr")  # Flower shows and collects this logger's lines

Answer = TypeVar("Answer")


class RemoteReaders:
    """A client that misses a message is left out of all that follow: what it told of its rows
    stands, and losses go on over those of the others. `announced` says how many rows a client has
    to tell of under a fit."""

    def __init__(
        self,
        letters: Letters,
        clients: Sequence[int],
        announced: Callable[[Fit, Member], int],
    ) -> None:
        self.letters, self.invitation = letters, letters.invitation
        self.clients, self.announced = list(clients), announced

    def statistics(self, fits: Sequence[Fit]) -> dict[Fit, list[Statistics]]:
        """By fold, of all clients."""
        request: dict[str, Record] = {ASK: ConfigRecord({"fits": list[str](fits)})}
        read = partial(self._read_statistics, fits)
        told = self.letters.ask(STATISTICS, self.clients, request, read)
        self.clients = list(told)
        return {fit: added([one[fit] for one in told.values()]) for fit in fits}

    def learn(self, told: Mapping[Fit, Sequence[Statistics]]) -> None:
        """They go out with the next message."""
        for fit, statistics in told.items():
            self.letters.tell(told_name(SUMS, fit), statistics_record(statistics))

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
        request: dict[str, Record] = {
            ASK: ConfigRecord({"count": len(asked)}),
            ASKED: asked_record(asked),
        }
        answers = self.letters.ask(kind, self.clients, request, partial(read, len(asked)))
        gone = sorted(set(self.clients) - set(answers))
        if gone:
            logger.info("readouts are fitted anew, without the rows of clients %s", gone)
            self.clients = list(answers)
            raise FewerRows
        return list(answers.values())

    def _read_statistics(
        self, fits: Sequence[Fit], content: RecordDict, member: Member
    ) -> dict[Fit, list[Statistics]]:
        told = statistics_of(content.array_records.get(ANSWER), self.invitation, fits)
        for fit, statistics in told.items():
            refuse_statistics(statistics, self.announced(fit, member))
        return told

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
