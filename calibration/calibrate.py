"""The path of a calibration: client vectors -> FedAvg -> rounds of (fit, FedAvg).

One loop for clients in this process (`run.local`), on machines of their own
(`federation.coordinator.clients`) and in the benches (bench/federation/rounds.py). Where the
clients are is `Clients`'s to know; what is saved, told and warned of meanwhile is `Watch`'s.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from calibration.settings import Settings
from calibration.stages.aggregate import aggregate_updates, aggregate_vectors
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from calibration.stages.robust import AGGREGATORS
from calibration.state import State


class Clients(Protocol):
    """Those who hold the examples. They go by numbers, which need not begin at 0."""

    @property
    def numbers(self) -> Sequence[int]:
        """Those who take part, once there is a state."""
        ...

    def vectors(self) -> dict[int, ClientVector]:
        """Stage 1 of every client."""
        ...

    def received(self, context_vector: Tensor) -> Tensor:
        """The global context vector [layers, 2, hidden] as it arrives at the clients."""
        ...

    def fit(self, state: State) -> dict[int, ClientUpdate]:
        """A round of stage 2 of every client that answers, from the state's coefficients on."""
        ...


class Watch:
    """What happens beside the loop; this one does nothing. A method returns the state to go on
    with."""

    saved: State | None = None  # what to go on from

    def began(self, state: State, vectors: Mapping[int, ClientVector]) -> State:
        """Stage 1 is done."""
        return state

    def round_done(self, state: State, updates: Mapping[int, ClientUpdate]) -> State:
        """The server has averaged a round."""
        return state


def calibrate(clients: Clients, settings: Settings, watch: Watch) -> State:
    """Fit a task to its clients' examples: the global context vector, and the coefficients after
    every round."""
    rule = AGGREGATORS[settings.aggregation]
    state = watch.saved
    if state is None:
        vectors = clients.vectors()
        mean = aggregate_vectors(list(vectors.values()), rule)
        state = watch.began(State.first(clients.received(mean), settings), vectors)
    while state.rounds_done < settings.rounds:
        updates = clients.fit(state)
        mean = aggregate_updates(list(updates.values()), rule)
        losses = [list(updates[n].losses) if n in updates else [] for n in clients.numbers]
        state = watch.round_done(state.after_round(mean, losses), updates)
    return state
