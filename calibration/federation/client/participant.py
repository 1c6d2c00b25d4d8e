"""A data owner's side: its model, its rows, and its answers to the coordinator's requests.

Knows nothing of Flower. Every answer holds tensors and numbers alone; a refusal is written
for the coordinator and quotes nothing of the data.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig

from calibration.data.examples import check_labels, read_examples, split_held_out
from calibration.data.rows import Rows
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import Member
from calibration.model.hooked import HookedModel, longest_prompt
from calibration.model.lengths import fitting
from calibration.model.load import open_model
from calibration.privacy.readout import PrivateRows
from calibration.settings import Machine, Settings, SiteFit
from calibration.stages.extract import ClientVector, extract_vector
from calibration.stages.fit import ClientUpdate, fit_round
from calibration.stages.read import held_out_loss, read_privately, read_rows
from calibration.task import TaskDefinition
from ifedicl_serve.checkpoint.tokenizer import load_tokenizer
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import Injection
from ifedicl_serve.errors import DataError, FederationError
from ifedicl_serve.fitting.reader import Read

logger = logging.getLogger("flwr")  # Flower shows this logger's lines


@dataclass(frozen=True)
class Owner:
    """What a data owner configures: its number in the federation, its model and its rows.

    Rungs are chosen and judged by `held_out` of the rows. `max_epsilon` and `max_delta` are
    the weakest differential privacy it agrees to (epsilon 0: it agrees to none being asked for).
    Answers to private federations are kept in the folder `answers`; a simulated client has none.
    Texts that are too long for the model are cut (`truncate`) or keep it from taking part.
    """

    client: int
    model: str
    data: Path
    text_column: str = "text"
    label_column: str = "label"
    held_out: float = 0.2
    max_epsilon: float = 0.0
    max_delta: float = 1e-5
    answers: Path | None = None
    truncate: bool = False
    machine: Machine = Machine()

    def rows(self, task: TaskDefinition | None = None, seed: int = 0) -> Rows:
        """Its rows; as examples of a task, if one is given. Raises DataError for rows it cannot
        take part with."""
        rows = read_examples(self.data, self.text_column, self.label_column)
        if task is not None:
            check_labels(rows, task.names, str(self.data))
            tokenizer, most = _reader(self.model)
            rows = fitting(rows, self.data, task, tokenizer, most, self.truncate)
        parts = Rows(*split_held_out(rows, self.held_out, seed))
        if not parts.train:
            raise DataError(
                f"{self.data}: --held-out {self.held_out:g} leaves none of {len(rows)} rows to "
                "fit to; lower it"
            )
        return parts


class Participant:
    """An owner that accepted an invitation. Raises FederationError if it must refuse it."""

    def __init__(self, owner: Owner, invitation: Invitation) -> None:
        self.owner, self.invitation, self.task = owner, invitation, invitation.task
        _refuse_less_privacy(owner, invitation.settings)
        asked, own = invitation.model, _identity(owner.model)
        # A coordinator that has no weights learns from its clients which theirs are.
        known = asked if asked.weights_digest else asked.with_weights(own.weights_digest)
        mismatch = known.mismatch(own)
        if mismatch:
            raise FederationError(
                f"runs another base model ({mismatch}); start it with the coordinator's model"
            )
        try:
            seed = invitation.settings.seed
            self.rows = owner.rows(self.task, seed)
        except DataError as error:
            raise FederationError("cannot use its data; its own log says why") from error

    @cached_property
    def model(self) -> HookedModel:
        return _model(self.owner.model, self.owner.machine)

    def introduce(self) -> Member:
        """Its number, how many rows it has, and its model's weights."""
        rows = self.rows
        return Member(
            client=self.owner.client,
            examples=len(rows.train),
            held_out=len(rows.held_out),
            weights=_identity(self.owner.model).weights_digest,
        )

    def extract(self) -> ClientVector:
        """Stage 1."""
        settings = self.invitation.settings
        return extract_vector(self.model, self.task, self.rows.train, settings, self.owner.client)

    def fit(self, fit: SiteFit, vector: Tensor, values: Tensor, round_index: int) -> ClientUpdate:
        """A round of stage 2."""
        return fit_round(
            self.model,
            self.task,
            self.rows.train,
            fit,
            vector,
            values,
            self.invitation.settings,
            self.owner.client,
            round_index,
        )

    def held_out_loss(self, injection: Injection) -> tuple[float, int]:
        """Summed over its held-out rows, and how many there are."""
        settings = self._open_settings()
        return held_out_loss(self.model, self.task, self.rows, injection, settings)

    def read(self, injection: Injection | None, by_held_out: bool) -> Read:
        """Stage 3: what the model says of its rows, for readouts and to judge rungs by."""
        settings = self._open_settings()
        return read_rows(self.model, self.task, self.rows, injection, settings, by_held_out)

    def read_privately(self, injection: Injection | None) -> PrivateRows:
        """The same for noisy sums, of the rows it fits to."""
        settings = self.invitation.settings
        return read_privately(self.model, self.task, self.rows.train, injection, settings)

    def _open_settings(self) -> Settings:
        if self.invitation.settings.private:
            raise FederationError("tells no exact sums of its rows: they would not be private")
        return self.invitation.settings


def _refuse_less_privacy(owner: Owner, asked: Settings) -> None:
    agreed = 0 < asked.epsilon <= owner.max_epsilon and asked.delta <= owner.max_delta
    if owner.max_epsilon and not agreed:
        seen = f"{asked.epsilon:g} and {asked.delta:g}" if asked.private else "no privacy"
        raise FederationError(
            f"agrees to epsilon {owner.max_epsilon:g} and delta {owner.max_delta:g} at most, was "
            f"asked for {seen}"
        )


@lru_cache(maxsize=1)
def _model(name: str, machine: Machine) -> HookedModel:
    return open_model(name, machine, logger.info, _tokenizer(name))


@lru_cache(maxsize=1)
def _tokenizer(name: str) -> Any:
    return load_tokenizer(name)


@lru_cache(maxsize=1)
def _reader(name: str) -> tuple[Any, int]:
    """A model's tokenizer, and how many tokens it reads."""
    return _tokenizer(name), longest_prompt(AutoConfig.from_pretrained(name))


@lru_cache(maxsize=1)
def _identity(name: str) -> ModelIdentity:
    return ModelIdentity.of(name, tokenizer=_tokenizer(name))
