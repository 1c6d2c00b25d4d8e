"""The clients of a calibration on machines of their own, as the loop asks for them.

Requests go out through a `Fleet`, and what comes back is believed only after `wire.messages` and
`checks`. Equal seeds, data and settings give the tensors of a calibration in one process.
"""

import logging
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from calibration.federation.coordinator.checks import (
    outsized,
    refuse_activations,
    refuse_coefficients,
)
from calibration.federation.coordinator.fleet import Fleet
from calibration.federation.wire.messages import (
    COEFFICIENTS,
    EXTRACT,
    FIT,
    MEASURE,
    VECTOR,
    Member,
    count_of,
    label_counts_of,
    losses_of,
    metrics_of,
    numbers_of,
    tensor_of,
    tensor_record,
)
from calibration.federation.wire.tensors import decode, encode
from calibration.run.progress import Progress
from calibration.stages.evaluate import DIGITS, NOTHING, Measured, Metrics
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from calibration.state import State
from ifedicl_serve.contract.injection import adapted_mask

logger = logging.getLogger("flwr")  # Flower shows and collects this logger's lines


class RemoteClients:
    """Those of a fleet that has gathered. `kept` is what an earlier run remembered of them: their
    numbers and how many examples each has."""

    def __init__(self, fleet: Fleet, kept: dict[str, Any], progress: Progress) -> None:
        self.fleet, self.invitation, self.progress = fleet, fleet.invitation, progress
        self.numbers: list[int] = kept.get("clients", [])
        self.sizes: list[int] = kept.get("sizes", [])

    def memory(self) -> dict[str, Any]:
        """What must be remembered to go on, as JSON holds it."""
        return {
            "clients": self.numbers,
            "sizes": self.sizes,
            "ledger": self.fleet.ledger.rows(),
        }

    def vectors(self) -> dict[int, ClientVector]:
        """Of all members; those that send a usable one are the clients from here on."""
        fleet, invitation = self.fleet, self.invitation
        self.progress.extracting(0, len(fleet.members))
        everyone = [member.client for member in fleet.members.values()]
        reminder = RecordDict({"invitation": invitation.to_record()})
        vectors = fleet.ask(EXTRACT, everyone, RecordDict(), reminder, self._read_vector)
        fleet.need(len(vectors), f"answered {EXTRACT}")
        for client in outsized({client: one.vector for client, one in vectors.items()}):
            logger.error("the vector of client %d is absurdly long; left out", client)
            del vectors[client]
        fleet.need(len(vectors), "sent a usable vector")
        sizes = {member.client: member.examples for member in fleet.members.values()}
        self.numbers, self.sizes = list(vectors), [sizes[client] for client in vectors]
        return vectors

    def received(self, context_vector: Tensor) -> Tensor:
        """The vector that clients will decode: the one the coefficients are fitted to."""
        wire = self.invitation.wire
        return decode(encode(context_vector, wire), wire, self.invitation.vector_shape)

    def fit(self, state: State) -> dict[int, ClientUpdate]:
        """From all clients that are there; the vector goes out with the first round."""
        request = RecordDict(
            {
                COEFFICIENTS: tensor_record(state.current, "fp32"),
                "round": ConfigRecord({"index": state.rounds_done}),
            }
        )
        if state.rounds_done == 0:
            request[VECTOR] = tensor_record(state.context_vector, self.invitation.wire)
        self.progress.fitting(0, state.rounds_done)
        updates = self.fleet.ask(
            FIT, self.numbers, request, self._reminder(state), self._read_update
        )
        self.fleet.need(len(updates), f"answered {FIT}")
        return updates

    def measure(self, state: State) -> Measured:
        """Zero-shot and adapted metrics over all clients' held-out rows, and their number."""
        if self.invitation.settings.private:
            return NOTHING
        members = [member for member in self.fleet.members.values() if member.held_out]
        clients = {member.client for member in members} & set(self.numbers)
        rows = sum(member.held_out for member in members if member.client in clients)
        self.progress.evaluating(rows)
        request = RecordDict({COEFFICIENTS: tensor_record(state.current, "fp32")})
        answers = self.fleet.ask(
            MEASURE, clients, request, self._reminder(state), _read_measured
        ).values()
        counts = [one.rows for one in answers]
        before = weighted([one.before for one in answers], counts)
        return Measured(before, weighted([one.after for one in answers], counts), sum(counts))

    def _read_vector(self, content: RecordDict, member: Member) -> ClientVector:
        numbers, invitation = numbers_of(content), self.invitation
        sent = content.array_records.get(VECTOR)
        vector = tensor_of(sent, invitation.wire, invitation.vector_shape)
        refuse_activations(vector)
        label_counts = label_counts_of(numbers, invitation.task.names, member)
        return ClientVector(vector, count_of(numbers, member), label_counts)

    def _read_update(self, content: RecordDict, member: Member) -> ClientUpdate:
        numbers, settings = numbers_of(content), self.invitation.settings
        sent = content.array_records.get(COEFFICIENTS)
        coefficients = tensor_of(sent, "fp32", self.invitation.coefficients_shape)
        adapted = adapted_mask(self.invitation.num_layers, settings.layers, settings.sites)
        refuse_coefficients(coefficients, untouched=~adapted)
        losses = losses_of(numbers, settings.local_steps)
        return ClientUpdate(coefficients, count_of(numbers, member), losses)

    def _reminder(self, state: State) -> RecordDict:
        """What a client must be told once, for one that was restarted since."""
        vector = tensor_record(state.context_vector, self.invitation.wire)
        return RecordDict({"invitation": self.invitation.to_record(), VECTOR: vector})


def _read_measured(content: RecordDict, member: Member) -> Measured:
    numbers = numbers_of(content)
    before, after = metrics_of(numbers, "zero_shot"), metrics_of(numbers, "adapted")
    return Measured(before, after, member.held_out)


def weighted(metrics: Sequence[Metrics], rows: Sequence[int]) -> Metrics:
    """Mean over all rows; none of none."""
    names = metrics[0] if metrics else ()
    return {name: round(fmean((m[name] for m in metrics), rows), DIGITS) for name in names}
