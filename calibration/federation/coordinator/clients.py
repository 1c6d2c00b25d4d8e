"""The clients of a calibration on machines of their own, as the loop asks for them.

Requests go out as `Letters`, and what comes back is believed only after `wire` and `checks`. Equal
seeds, data and settings give the tensors of a calibration in one process.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from calibration.federation.coordinator.checks import (
    outsized,
    refuse_activations,
    refuse_judgement,
    refuse_values,
)
from calibration.federation.coordinator.fleet import Fleet
from calibration.federation.coordinator.letters import Letters, Record
from calibration.federation.coordinator.private_readers import RemotePrivateReaders
from calibration.federation.coordinator.readers import RemoteReaders
from calibration.federation.wire import tensors
from calibration.federation.wire.messages import (
    ANSWER,
    ASK,
    ASKED,
    EXTRACT,
    FIT,
    HELD_OUT,
    JUDGE,
    READING,
    VALUES,
    Member,
    count_of,
    held_out_of,
    label_counts_of,
    losses_of,
    numbers_of,
    rows_of,
    tensor_of,
    told_name,
)
from calibration.federation.wire.sums import judgement_of, stacks_record
from calibration.model.sites import first_values
from calibration.run.progress import Progress
from calibration.settings import SiteFit
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from calibration.state import State
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.errors import QuorumError
from ifedicl_serve.fitting.fit import Stack
from ifedicl_serve.fitting.judge import Judgement
from ifedicl_serve.fitting.rungs import Rung

logger = logging.getLogger("flwr")  # Flower shows and collects this logger's lines


class RemoteClients:
    """Those of a fleet that has gathered. `kept` is what an earlier run remembered of them: their
    numbers, how many examples each has, and how many rows are held out."""

    def __init__(self, fleet: Fleet, kept: dict[str, Any], progress: Progress) -> None:
        self.fleet, self.invitation, self.progress = fleet, fleet.invitation, progress
        self.letters = Letters(fleet, fleet.invitation)
        members = sorted(fleet.members.values(), key=lambda member: member.client)
        rows = 0 if self.invitation.settings.private else sum(one.held_out for one in members)
        self.numbers: list[int] = kept.get("clients", [one.client for one in members])
        self.sizes: list[int] = kept.get("sizes", [one.examples for one in members])
        self.held_out: int = kept.get("held_out", rows)
        self._by_held_out = False

    def memory(self) -> dict[str, Any]:
        """What must be remembered to go on, as JSON holds it."""
        return {
            "clients": self.numbers,
            "sizes": self.sizes,
            "held_out": self.held_out,
            "ledger": self.fleet.ledger.rows(),
            "weights": self.fleet.weights,
        }

    @property
    def labels(self) -> int:
        """Those of the invitation."""
        return len(self.invitation.labels)

    def vectors(self) -> dict[int, ClientVector]:
        """Of all members; those that send a usable one are the clients from here on."""
        self.progress.extracting(0, len(self.numbers))
        vectors = self.letters.ask(EXTRACT, self.numbers, {}, self._read_vector)
        for client in outsized({client: one.vector for client, one in vectors.items()}):
            logger.error("the vector of client %d is absurdly long; left out", client)
            del vectors[client]
        self.fleet.need(len(vectors), "sent a usable vector")
        sizes = dict(zip(self.numbers, self.sizes, strict=True))
        self.numbers, self.sizes = list(vectors), [sizes[client] for client in vectors]
        return vectors

    def received(self, values: Tensor) -> Tensor:
        """What clients will decode, so that nothing is fitted to other values than are kept."""
        return tensors.received(values, self.invitation.wire)

    def fit(self, state: State, fit: SiteFit) -> dict[int, ClientUpdate]:
        """From all clients that are there; the vector goes out with the first round."""
        done = state.rounds_done(fit)
        self.progress.fitting(fit, 0, done)
        values = self.letters.tell_values(state, fit, state.current(fit))
        request: dict[str, Record] = {
            ASK: ConfigRecord({"fit": fit, VALUES: values, "round": done})
        }
        read = partial(self._read_update, fit, self._untouched(state, fit))
        return self.letters.ask(FIT, self.numbers, request, read)

    def held_out_loss(self, state: State, fit: SiteFit) -> float | None:
        """Over all clients' rows together."""
        if not self.held_out:
            return None
        values = self.letters.tell_values(state, fit, state.current(fit))
        request: dict[str, Record] = {ASK: ConfigRecord({"fit": fit, VALUES: values})}
        told = self.letters.ask(HELD_OUT, self.numbers, request, _read_held_out)
        rows = sum(count for _, count in told.values())
        _need_rows(rows, HELD_OUT)
        return sum(loss for loss, _ in told.values()) / rows

    def readers(self, state: State, fits: Sequence[Fit], rungs: Sequence[Rung]) -> RemoteReaders:
        """Of all clients, which are told what to read their rows under."""
        self.progress.comparing()
        self._by_held_out = self.held_out > 0 and any(rung.fit != "none" for rung in rungs)
        for fit in fits:
            self._tell_reading(state, fit)
        return RemoteReaders(self.letters, self.numbers, self._announced)

    def private_readers(self, state: State, fit: Fit) -> RemotePrivateReaders:
        """Of all clients, of the rows they fit to."""
        self.progress.reading(fit)
        self._tell_reading(state, fit)
        return RemotePrivateReaders(self.letters, self.numbers, fit)

    def judge(self, rungs: Sequence[Rung], stacks: Mapping[Rung, Stack]) -> Judgement:
        """By the rows of `readers`."""
        request: dict[str, Record] = {
            ASK: ConfigRecord({"rungs": [rung.name for rung in rungs]}),
            ASKED: stacks_record(rungs, stacks, self.labels),
        }
        read = partial(self._read_judgement, len(rungs))
        told = self.letters.ask(JUDGE, self.numbers, request, read)
        judgement = reduce(add, told.values())
        _need_rows(judgement.rows, JUDGE)
        return judgement

    def _tell_reading(self, state: State, fit: Fit) -> None:
        reading: dict[str, str | bool] = {"by_held_out": self._by_held_out}
        if fit != "none":
            reading[VALUES] = self.letters.tell_values(state, fit, state.best(fit))
        self.letters.tell(told_name(READING, fit), ConfigRecord({**reading}))

    def _announced(self, fit: Fit, member: Member) -> int:
        """How many rows a member reads under a fit, at most."""
        if fit == "none":
            return member.examples + member.held_out
        return member.held_out if self._by_held_out else member.examples

    def _untouched(self, state: State, fit: SiteFit) -> tuple[Tensor, Tensor]:
        """The sites [layers, 2] that the task does not adapt, and their values [sites, ...]."""
        settings = self.invitation.settings
        assert state.context_vector is not None
        mask = ~adapted_mask(self.invitation.num_layers, settings.layers, settings.sites)
        return mask, first_values(fit, state.context_vector, settings)[mask]

    def _read_vector(self, content: RecordDict, member: Member) -> ClientVector:
        numbers, invitation = numbers_of(content), self.invitation
        sent = content.array_records.get(ANSWER)
        vector = tensor_of(sent, invitation.wire, invitation.vector_shape)
        refuse_activations(vector)
        label_counts = label_counts_of(numbers, invitation.task.names, member)
        return ClientVector(vector, count_of(numbers, member), label_counts)

    def _read_update(
        self, fit: SiteFit, untouched: tuple[Tensor, Tensor], content: RecordDict, member: Member
    ) -> ClientUpdate:
        numbers, invitation = numbers_of(content), self.invitation
        sent = content.array_records.get(ANSWER)
        values = tensor_of(sent, invitation.values_wire(fit), invitation.values_shape(fit))
        refuse_values(fit, values, *untouched)
        losses = losses_of(numbers, invitation.settings.local_steps)
        return ClientUpdate(values, count_of(numbers, member), losses)

    def _read_judgement(self, rungs: int, content: RecordDict, member: Member) -> Judgement:
        announced = member.held_out if self._by_held_out else member.examples + member.held_out
        rows = rows_of(numbers_of(content), announced)
        sent = content.array_records.get(ANSWER)
        judgement = judgement_of(sent, rows, rungs, self.labels)
        refuse_judgement(judgement)
        return judgement


def _read_held_out(content: RecordDict, member: Member) -> tuple[float, int]:
    return held_out_of(numbers_of(content), member)


def _need_rows(rows: int, kind: str) -> None:
    if rows == 0:
        raise QuorumError(
            f"no client that answered {kind} holds out a row, so nothing says which values or rung "
            "to keep; see the log for who is missing, or name what to fit (--fit and --readout)"
        )
