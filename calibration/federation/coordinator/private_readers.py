"""Private clients' rows under one fit, as a readout is fitted to them: every call is a message to
each."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from calibration.federation.coordinator.checks import refuse_gradient, refuse_noisy
from calibration.federation.coordinator.letters import Letters, Record
from calibration.federation.wire.messages import (
    ANSWER,
    ASK,
    ASKED,
    GRADIENT,
    NOISY_STATISTICS,
    SUMS,
    Member,
    told_name,
)
from calibration.federation.wire.sums import gradient_of, noisy_of, noisy_record, theta_record
from calibration.readout.noisy import NoisySums, noisy_added
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.fitting.statistics import Doubles

Answer = TypeVar("Answer")


class RemotePrivateReaders:
    """A client that misses a message is left out of all that follow."""

    def __init__(self, letters: Letters, clients: Sequence[int], fit: Fit) -> None:
        self.letters, self.invitation = letters, letters.invitation
        self.clients, self.fit = list(clients), fit

    def statistics(self) -> NoisySums:
        """Of all clients."""
        return noisy_added(self._ask(NOISY_STATISTICS, {}, self._read_statistics))

    def learn(self, told: NoisySums) -> None:
        """They go out with the next message."""
        self.letters.tell(told_name(SUMS, self.fit), noisy_record(told))

    def gradient(self, step: int, theta: Doubles) -> Doubles:
        """Summed over all clients."""
        request: dict[str, Record] = {ASK: ConfigRecord({"step": step}), ASKED: theta_record(theta)}
        return np.sum(self._ask(GRADIENT, request, self._read_gradient), axis=0)

    def _ask(
        self, kind: str, request: dict[str, Record], read: Callable[[RecordDict, Member], Answer]
    ) -> list[Answer]:
        answers = self.letters.ask(kind, self.clients, request, read)
        self.clients = list(answers)
        return list(answers.values())

    def _read_statistics(self, content: RecordDict, member: Member) -> NoisySums:
        sums = noisy_of(content.array_records.get(ANSWER), self.invitation)
        refuse_noisy(sums, member.examples)
        return sums

    def _read_gradient(self, content: RecordDict, member: Member) -> Doubles:
        sent = content.array_records.get(ANSWER)
        gradient = gradient_of(sent, len(self.invitation.labels))
        refuse_gradient(gradient)
        return gradient
