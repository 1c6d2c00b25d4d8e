"""What the coordinator asks, and what it takes to answer: checked here, and no more than the
invitation speaks of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from calibration.federation.client.memory import Memory
from calibration.federation.client.participant import Participant
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import (
    ASK,
    ASKED,
    READING,
    SUMS,
    VALUES,
    VECTOR,
    tensor_of,
    told_name,
)
from calibration.federation.wire.sums import FITS, asked_of, noisy_of, statistics_of, theta_of
from calibration.ladder import LADDER, private_rung, rungs_of
from calibration.model.sites import injection_of
from calibration.privacy.readout import PrivateReader, PrivateRows
from calibration.readout.noisy import STEPS, NoisySums
from calibration.settings import SiteFit
from ifedicl_serve.contract.injection import Injection
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.errors import FederationError
from ifedicl_serve.fitting.reader import Read, Readers
from ifedicl_serve.fitting.rungs import Rung
from ifedicl_serve.fitting.stack import Asked
from ifedicl_serve.fitting.statistics import Doubles, Statistics

RUNGS = {rung.name: rung for rung in LADDER}


@dataclass(frozen=True)
class Question:
    """A request to a participant, and what it remembers. Methods raise FederationError for what is
    none of the task's, `Forgotten` for what must be told first."""

    participant: Participant
    request: RecordDict
    memory: Memory

    @property
    def invitation(self) -> Invitation:
        return self.participant.invitation

    @property
    def labels(self) -> int:
        return len(self.invitation.labels)

    @property
    def arrays(self) -> ArrayRecord | None:
        """What is asked, in arrays."""
        return self.request.array_records.get(ASKED)

    def site_fit(self) -> SiteFit:
        """Which of those that the settings fit at the sites."""
        settings, asked = self.invitation.settings, self._ask().get("fit")
        fitted = sorted({rung.fit for rung in rungs_of(settings.fit, settings.readout)} - {"none"})
        if asked not in fitted:
            raise FederationError(
                f"was asked for fit {asked!r}, expected one of {', '.join(fitted) or 'none'}"
            )
        return cast(SiteFit, asked)

    def fits(self) -> list[Fit]:
        """Under which rows are read."""
        asked = self._ask().get("fits")
        some = isinstance(asked, list) and 1 <= len(asked) <= len(FITS)
        if not isinstance(asked, list) or not some or set(asked) - set(FITS):
            raise FederationError(f"was asked for fits {asked!r}, of {', '.join(FITS)}")
        return cast(list[Fit], asked)

    def round(self) -> int:
        """A round's number."""
        asked, rounds = self._ask().get("round"), self.invitation.settings.rounds
        if type(asked) is not int or asked not in range(rounds):
            raise FederationError(f"was asked for round {asked!r}, which is none of the task's")
        return asked

    def rungs(self) -> list[Rung]:
        """To judge."""
        names = self._ask().get("rungs")
        some = isinstance(names, list) and 1 <= len(names) <= len(RUNGS)
        if not isinstance(names, list) or not some or set(names) - set(RUNGS):
            raise FederationError(f"was asked to judge rungs {names!r}, of {', '.join(RUNGS)}")
        return [RUNGS[str(name)] for name in names]

    def sums(self) -> list[Asked]:
        """Of readouts."""
        count = self._ask().get("count")
        if type(count) is not int:
            raise FederationError(f"was asked for {count!r} sums at once, expected a number")
        return asked_of(self.arrays, count, self.labels)

    def vector(self) -> Tensor:
        """The global context vector [layers, 2, hidden]."""
        invitation = self.invitation
        return tensor_of(self.memory.arrays(VECTOR), invitation.wire, invitation.vector_shape)

    def values(self, fit: SiteFit) -> Tensor:
        """Those at the sites [layers, 2, ...] that are asked about."""
        return self._values(fit, self._ask())

    def injection(self, fit: SiteFit) -> Injection:
        """Of those values."""
        return injection_of(fit, self.vector())(self.values(fit))

    def read(self, fit: Fit) -> Read:
        """The client's rows under a fit, as it was told to read them."""

        def read() -> Read:
            by_held_out = bool(self._reading(fit)["by_held_out"])
            return self.participant.read(self._injection(fit), by_held_out)

        return self.memory.read(fit, read)

    def taught(self, fit: Fit) -> Read:
        """The same, once it has learnt what all clients' rows add up to."""

        def sums() -> list[Statistics]:
            record = self.memory.arrays(told_name(SUMS, fit))
            return statistics_of(record, self.invitation, [fit])[fit]

        read = self.read(fit)
        self.memory.teach(fit, read.reader, sums)
        return read

    def readers(self, asked: Sequence[Asked]) -> Readers:
        """Of the client's rows, for sums under these fits."""
        return Readers({fit: [self.taught(fit).reader] for fit in {one.fit for one in asked}})

    def private_reader(self) -> PrivateReader:
        """Of the client's rows, for the one readout that is fitted to noisy sums."""
        settings = self.invitation.settings
        if not settings.private or private_rung(settings).readout == "none":
            raise FederationError("was asked for noisy sums, which are none of the task's")
        fit = private_rung(settings).fit

        def read() -> PrivateRows:
            return self.participant.read_privately(self._injection(fit))

        return PrivateReader(self.memory.read_privately(fit, read), settings)

    def taught_private_reader(self) -> PrivateReader:
        """The same, once it has learnt what all clients' noisy sums add up to."""
        fit = private_rung(self.invitation.settings).fit

        def sums() -> NoisySums:
            return noisy_of(self.memory.arrays(told_name(SUMS, fit)), self.invitation)

        reader = self.private_reader()
        self.memory.teach(fit, reader, sums)
        return reader

    def step(self) -> int:
        """Of a private client's readout."""
        asked = self._ask().get("step")
        if type(asked) is not int or asked not in range(STEPS):
            raise FederationError(f"was asked for step {asked!r}, of {STEPS}")
        return asked

    def theta(self) -> Doubles:
        """What a gradient is asked for at."""
        return theta_of(self.arrays, self.labels)

    def _reading(self, fit: Fit) -> ConfigRecord:
        return self.memory.told(told_name(READING, fit))

    def _injection(self, fit: Fit) -> Injection | None:
        """What rows are read under."""
        if fit == "none":
            return None
        return injection_of(fit, self.vector())(self._values(fit, self._reading(fit)))

    def _ask(self) -> ConfigRecord:
        return self.request.config_records.get(ASK, ConfigRecord())

    def _values(self, fit: SiteFit, named: ConfigRecord) -> Tensor:
        invitation, record = self.invitation, self.memory.arrays(told_name(fit, named.get(VALUES)))
        return tensor_of(record, invitation.values_wire(fit), invitation.values_shape(fit))
