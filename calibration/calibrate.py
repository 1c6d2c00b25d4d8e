"""The path of a calibration: what is fitted at the sites, then readouts, then the choice of a rung.

    client vectors -> FedAvg -> rounds of (fit, FedAvg)    coefficients, channels
    class sums -> small rounds of sums                     bias, head, of all fits together
    held-out losses -> the rung to keep                    (private clients: the only one)

One loop for clients in this process (`run.local`), on machines of their own
(`federation.coordinator.clients`) and in the benches (bench/federation/rounds.py). Where the
clients are is `Clients`'s to know; what is saved, told and warned of meanwhile is `Watch`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from calibration.ladder import tried
from calibration.model.sites import site_tensors
from calibration.readout.metered import Metered, MeteredNoisy, Payload
from calibration.readout.noisy import NoisyTold, fit_noisy_readout
from calibration.settings import SITE_FITS, Settings, SiteFit
from calibration.stages.aggregate import aggregate_updates, aggregate_vectors
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from calibration.stages.robust import AGGREGATORS
from calibration.stages.start import EMPTY, Shelf, comparison
from calibration.state import State
from ifedicl_serve.contract.injection import TensorName
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.fitting.fit import Stack, Told, fit_readouts, readout_tensors
from ifedicl_serve.fitting.judge import (
    NOTHING,
    Judgement,
    Measured,
    Trial,
    choose,
    measured,
    with_zero_shot,
)
from ifedicl_serve.fitting.rungs import Rung
from ifedicl_serve.fitting.statistics import total


class Clients(Protocol):
    """Those who hold the examples. They go by numbers, which need not begin at 0."""

    @property
    def numbers(self) -> Sequence[int]:
        """Those who take part, once there is a state."""
        ...

    @property
    def labels(self) -> int:
        """How many the task has."""
        ...

    @property
    def held_out(self) -> int:
        """How many rows they have, together, to judge rungs by."""
        ...

    def vectors(self) -> dict[int, ClientVector]:
        """Stage 1 of every client."""
        ...

    def received(self, values: Tensor) -> Tensor:
        """A tensor [layers, 2, ..., hidden] as it arrives at the clients."""
        ...

    def fit(self, state: State, fit: SiteFit) -> dict[int, ClientUpdate]:
        """A round of stage 2 of every client that answers, from the state's values on."""
        ...

    def held_out_loss(self, state: State, fit: SiteFit) -> float | None:
        """The mean loss of the current values on held-out rows; None if there are none."""
        ...

    def readers(self, state: State, fits: Sequence[Fit], rungs: Sequence[Rung]) -> Told:
        """Their rows' features under fits, to make readouts of and to judge rungs by."""
        ...

    def private_readers(self, state: State, fit: Fit) -> NoisyTold:
        """The same of private clients, of all rows they fit to."""
        ...

    def judge(self, rungs: Sequence[Rung], stacks: Mapping[Rung, Stack]) -> Judgement:
        """The rungs on held-out rows, out of fold."""
        ...


class Watch:
    """What happens beside the loop; this one does nothing. A method returns the state to go on
    with."""

    saved: State | None = None  # what to go on from

    def began(self, state: State, vectors: Mapping[int, ClientVector]) -> State:
        """Stage 1 is done."""
        return state

    def told(self, state: State, counts: Sequence[float]) -> State:
        """Clients have told of how many rows have each label, which readouts are fitted to."""
        return state

    def round_done(self, state: State, fit: SiteFit, updates: Mapping[int, ClientUpdate]) -> State:
        """The server has averaged a round."""
        return state


@dataclass(frozen=True)
class Calibrated:
    """What a calibration arrives at: the rung that was chosen, the rungs that were tried with what
    was said of each (none: there were no rows to judge by), and the metrics of zero-shot and of the
    chosen one on so many rows, each predicted by what was fitted to others. `readouts` are the
    tensors of every rung that has one; `sums` counts what fitting them costs a client on a wire."""

    state: State
    readouts: Mapping[Rung, dict[TensorName, Tensor]]
    rung: Rung
    labels: int
    trials: Sequence[Trial]
    measured: Measured
    sums: Payload

    @property
    def tensors(self) -> dict[TensorName, Tensor]:
        """Those of the chosen rung."""
        return self.tensors_of(self.rung)

    def tensors_of(self, rung: Rung) -> dict[TensorName, Tensor]:
        """Those of a rung that was tried."""
        tensors: dict[TensorName, Tensor] = {}
        vector = self.state.context_vector
        if rung.fit != "none":
            assert vector is not None
            tensors |= site_tensors(rung.fit, vector, self.state.best(rung.fit))
        return tensors | self.readouts.get(rung, {})


def calibrate(
    clients: Clients, settings: Settings, watch: Watch, shelf: Shelf = EMPTY
) -> Calibrated:
    """Fit a task to its clients' examples, on every rung that is to be tried; from the nearest task
    of the shelf on, where held-out rows say that this is better."""
    state = watch.saved or State()
    rungs = tried(settings, clients.held_out)
    fits = [fit for fit in SITE_FITS if fit in {rung.fit for rung in rungs}]
    if fits and state.context_vector is None:
        vectors = clients.vectors()
        mean = aggregate_vectors(list(vectors.values()), AGGREGATORS[settings.aggregation])
        state = watch.began(State(clients.received(mean)), vectors)
    for fit in fits:
        if fit not in state.values:
            state = _begun(clients, state.begun(fit, settings), fit, settings, shelf)
        state = _fitted(clients, state, fit, settings, watch)
    if settings.private:
        return _unjudged(clients, state, *rungs)
    return _climbed(clients, state, rungs, watch)


def _begun(clients: Clients, state: State, fit: SiteFit, settings: Settings, shelf: Shelf) -> State:
    """At the start values, or at those of the nearest task if their held-out loss is lower."""
    assert state.context_vector is not None
    start = shelf.nearest(fit, state.context_vector, settings)
    afresh = clients.held_out_loss(state, fit) if start else None
    if start is None or afresh is None:
        return state
    there = state.started(fit, _received(clients, fit, start.values), {})
    loss = clients.held_out_loss(there, fit)
    assert loss is not None
    begun = there if loss < afresh else state
    return begun.started(fit, begun.current(fit), comparison(start, loss, afresh))


def _fitted(
    clients: Clients, state: State, fit: SiteFit, settings: Settings, watch: Watch
) -> State:
    """After all rounds of what is fitted at the sites."""
    while state.rounds_done(fit) < settings.rounds:
        updates = clients.fit(state, fit)
        mean = aggregate_updates(list(updates.values()), AGGREGATORS[settings.aggregation])
        mean = _received(clients, fit, mean)
        losses = [list(updates[n].losses) if n in updates else [] for n in clients.numbers]
        state = state.after_round(fit, mean, losses)
        if fit == "channels":
            state = state.judged(clients.held_out_loss(state, fit))
        state = watch.round_done(state, fit, updates)
    return state


def _received(clients: Clients, fit: SiteFit, values: Tensor) -> Tensor:
    """Coefficients are too few to be worth rounding."""
    return clients.received(values) if fit == "channels" else values


def _unjudged(clients: Clients, state: State, rung: Rung) -> Calibrated:
    """With the only rung of private clients, who tell nothing that it could be judged by."""
    if rung.readout == "none":
        return Calibrated(state, {}, rung, clients.labels, [], NOTHING, Payload())
    readers = MeteredNoisy(clients.private_readers(state, rung.fit), rung.fit)
    told = readers.statistics()
    readers.learn(told)
    readouts = {rung: fit_noisy_readout(readers, told, rung.readout)}
    return Calibrated(state, readouts, rung, clients.labels, [], NOTHING, readers)


def _climbed(clients: Clients, state: State, rungs: Sequence[Rung], watch: Watch) -> Calibrated:
    """Readouts for all rungs that have one, and the choice."""
    judging = clients.held_out > 0 or all(rung.fit == "none" for rung in rungs)
    compared = with_zero_shot(rungs)
    with_readout = [rung for rung in rungs if rung.readout != "none"]
    sums = Metered(clients.readers(state, _fits(compared if judging else with_readout), rungs))
    stacks: dict[Rung, Stack] = {}
    readouts: dict[Rung, dict[TensorName, Tensor]] = {}
    if with_readout:
        told = sums.statistics(_fits(with_readout))
        state = watch.told(state, total(next(iter(told.values()))).counts.tolist())
        sums.learn(told)
        stacks = fit_readouts(sums, with_readout, clients.labels)
        readouts = {
            rung: readout_tensors(told[rung.fit], stacks[rung], rung.readout)
            for rung in with_readout
        }
    if not judging:
        return Calibrated(state, readouts, rungs[-1], clients.labels, [], NOTHING, sums)
    judgement = clients.judge(compared, stacks)
    rung, trials = choose(judgement, compared, rungs)
    told_of = measured(judgement, compared, rung)
    return Calibrated(state, readouts, rung, clients.labels, trials, told_of, sums)


def _fits(rungs: Sequence[Rung]) -> list[Fit]:
    return list(dict.fromkeys(rung.fit for rung in rungs))
