"""A data owner's side: its model, its rows, and its answers to the coordinator's requests.

Knows nothing of Flower. Every answer holds tensors and numbers alone; a refusal is written
for the coordinator and quotes nothing of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from torch import Tensor

from calibration.data.examples import Example, check_labels, read_examples, split_held_out
from calibration.federation.wire.messages import Invitation, Member, Numbers
from calibration.model.hooked import HookedModel
from calibration.model.load import open_model
from calibration.result.record import measurements
from calibration.settings import Settings
from calibration.stages.evaluate import before_and_after
from calibration.stages.extract import ClientVector, extract_vector
from calibration.stages.fit import ClientUpdate, fit_round
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import DataError, FederationError


@dataclass(frozen=True)
class Owner:
    """What a data owner configures: its number in the federation, its model and its rows.

    `held_out` of the rows are measured on and never fitted to. `max_epsilon` and `max_delta` are
    the weakest differential privacy it agrees to (epsilon 0: it agrees to none being asked for).
    Answers to private federations are kept in the folder `answers`; a simulated client has none.
    """

    client: int
    model: str
    data: Path
    text_column: str = "text"
    label_column: str = "label"
    held_out: float = 0.2
    dtype: str = "fp32"
    device: str = "auto"
    max_epsilon: float = 0.0
    max_delta: float = 1e-5
    answers: Path | None = None

    def examples(
        self, labels: Sequence[str] | None = None, seed: int = 0
    ) -> tuple[list[Example], list[Example]]:
        """Its rows to fit to and to measure on; their labels are among `labels`, if given.
        Raises DataError for rows it cannot take part with."""
        rows = read_examples(self.data, self.text_column, self.label_column)
        if labels is not None:
            check_labels(rows, labels, str(self.data))
        train, held_out = split_held_out(rows, self.held_out, seed)
        if not train:
            raise DataError(
                f"{self.data}: --held-out {self.held_out:g} leaves none of {len(rows)} rows to "
                "fit to; lower it"
            )
        return train, held_out


class Participant:
    """An owner that accepted an invitation. Raises FederationError if it must refuse it."""

    def __init__(self, owner: Owner, invitation: Invitation) -> None:
        self.owner, self.invitation, self.task = owner, invitation, invitation.task
        _refuse_less_privacy(owner, invitation.settings)
        mismatch = invitation.model.mismatch(_identity(owner.model))
        if mismatch:
            raise FederationError(
                f"runs another base model ({mismatch}); start it with the coordinator's model"
            )
        try:
            seed = invitation.settings.seed
            self.train, self.held_out = owner.examples(self.task.names, seed)
        except DataError as error:
            raise FederationError("cannot use its data; its own log says why") from error

    @cached_property
    def model(self) -> HookedModel:
        return _model(self.owner.model, self.owner.dtype, self.owner.device)

    def introduce(self) -> Member:
        """Its number and how many rows it has."""
        return Member(
            client=self.owner.client, examples=len(self.train), held_out=len(self.held_out)
        )

    def extract(self) -> ClientVector:
        """Stage 1."""
        settings = self.invitation.settings
        return extract_vector(self.model, self.task, self.train, settings, self.owner.client)

    def fit(self, vector: Tensor, coefficients: Tensor, round_index: int) -> ClientUpdate:
        """A round of stage 2."""
        return fit_round(
            self.model,
            self.task,
            self.train,
            vector,
            coefficients,
            self.invitation.settings,
            self.owner.client,
            round_index,
        )

    def measure(self, vector: Tensor, coefficients: Tensor) -> Numbers:
        """Metrics on its held-out rows, zero-shot and adapted."""
        if self.invitation.settings.private:
            raise FederationError("measures nothing: metrics would not be private")
        if not self.held_out:
            raise FederationError("has no held-out rows to measure on")
        measured = before_and_after(
            self.model,
            self.task,
            self.held_out,
            self.invitation.settings,
            vector,
            coefficients,
        )
        return {**measurements(*measured)}


def _refuse_less_privacy(owner: Owner, asked: Settings) -> None:
    agreed = 0 < asked.epsilon <= owner.max_epsilon and asked.delta <= owner.max_delta
    if owner.max_epsilon and not agreed:
        seen = f"{asked.epsilon:g} and {asked.delta:g}" if asked.private else "no privacy"
        raise FederationError(
            f"agrees to epsilon {owner.max_epsilon:g} and delta {owner.max_delta:g} at most, was "
            f"asked for {seen}"
        )


@lru_cache(maxsize=1)
def _model(name: str, dtype: str, device: str) -> HookedModel:
    return open_model(name, dtype, device)


@lru_cache(maxsize=1)
def _identity(name: str) -> ModelIdentity:
    return ModelIdentity.of(name)
