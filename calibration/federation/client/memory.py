"""What a client remembers between messages of a run: what it was told, what it has read of its
rows, and what it has learnt of both. That stays here: no answer is made of it but sums.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from calibration.federation.wire.messages import (
    INVITATION,
    READING,
    SUMS,
    VECTOR,
    array_record,
    told_name,
)
from calibration.privacy.readout import PrivateRows
from calibration.settings import SITE_FITS
from ifedicl_serve.contract.spec import Fit
from ifedicl_serve.errors import FederationError
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.reader import Read, Reader
from ifedicl_serve.fitting.statistics import Doubles

Told = TypeVar("Told", contravariant=True)
TOPICS = (INVITATION, VECTOR, READING, SUMS, *SITE_FITS)
READ, LEARNT = "read", "learnt"


class Forgotten(Exception):
    """This client was restarted since it was told what it needs to answer."""


class Learner(Protocol[Told]):
    """A reader of rows, and what it makes of all clients' sums: a score of each row and label
    [..., rows, labels], and a number of each label [labels]."""

    scores: Doubles
    u: Doubles

    def learn(self, told: Told) -> None: ...


class Memory:
    """The records of a Flower context."""

    def __init__(self, records: RecordDict) -> None:
        self.records = records

    def keep(self, request: RecordDict) -> None:
        """Remember what is told once; of a fit the latest values alone.

        Nothing is told twice in different ways: of another invitation the rounds would be computed
        on top of those that the accountant of differential privacy counted.
        """
        for name, record in request.items():
            topic = name.partition(".")[0]
            if topic not in TOPICS:
                continue
            if self.records.get(name, record) != record:
                raise FederationError(f"was sent another {name} than before in the same run")
            if topic in SITE_FITS:
                for older in [one for one in self.records if one.startswith(told_name(topic, ""))]:
                    del self.records[older]
            self.records[name] = record

    def told(self, name: str) -> ConfigRecord:
        """Settings that were told."""
        if name not in self.records.config_records:
            raise Forgotten
        return self.records.config_records[name]

    def arrays(self, name: str) -> ArrayRecord:
        """Arrays that were told."""
        if name not in self.records.array_records:
            raise Forgotten
        return self.records.array_records[name]

    def read(self, fit: Fit, read: Callable[[], Read]) -> Read:
        """A client's rows under a fit: the model runs once."""
        name = told_name(READ, fit)
        if name not in self.records:
            self.records[name] = _kept(read())
        return _read(self.records.array_records[name])

    def teach(self, fit: Fit, reader: Learner[Told], sums: Callable[[], Told]) -> None:
        """What all clients' rows under a fit add up to: label rows are found once. It cannot be
        stale, as neither the sums are told again (`keep`) nor the rows read."""
        name = told_name(LEARNT, fit)
        if name not in self.records:
            reader.learn(sums())
            self.records[name] = array_record({"scores": reader.scores, "u": reader.u})
        learnt = self.records.array_records[name]
        reader.scores, reader.u = learnt["scores"].numpy(), learnt["u"].numpy()

    def read_privately(self, fit: Fit, read: Callable[[], PrivateRows]) -> PrivateRows:
        """The same of a private client."""
        name = told_name(READ, fit)
        if name not in self.records:
            (log_probs, hidden), labels, public = read()
            self.records[name] = array_record(
                {
                    "log_probs": log_probs,
                    "hidden": hidden,
                    "labels": labels,
                    "public_log_probs": public.log_probs,
                    "public_hidden": public.hidden,
                }
            )
        kept = {part: array.numpy() for part, array in self.records.array_records[name].items()}
        return PrivateRows(
            Features(kept["log_probs"], kept["hidden"]),
            kept["labels"],
            Features(kept["public_log_probs"], kept["public_hidden"]),
        )


def _kept(read: Read) -> ArrayRecord:
    reader, judged = read
    log_probs, hidden = reader.features
    return array_record(
        {
            "log_probs": log_probs,
            "hidden": hidden,
            "labels": reader.labels,
            "folds": reader.folds,
            "judged": judged,
        }
    )


def _read(kept: ArrayRecord) -> Read:
    arrays = {name: array.numpy() for name, array in kept.items()}
    features = Features(arrays["log_probs"], arrays["hidden"])
    return Read(Reader(features, arrays["labels"], arrays["folds"]), arrays["judged"])
