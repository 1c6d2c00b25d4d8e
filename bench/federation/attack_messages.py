"""Clients' messages as an attacker receives them, made in bulk from what was computed once.

Every example runs through the model once for each kind of message; a client's message is then a
mean over some rows of what each adds to it, sent the way calibration sends it: the same reference,
clipping, noise and int8.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor

from bench.common.data_sets import DataSet
from bench.federation.attackers import Facts, Floats, Ints
from calibration.data.examples import Example
from calibration.federation.wire.tensors import Wire, decode, encode
from calibration.model.activations import rendered
from calibration.model.batches import by_length
from calibration.model.hooked import HookedModel, Noise, recorded
from calibration.model.loss import label_targets
from calibration.model.objective import Objective, example_gradients
from calibration.model.sites import first_values, injection_of
from calibration.privacy.accountant import noise_multiplier, sampling_rate
from calibration.privacy.manner import vector_deviation
from calibration.privacy.mechanism import Randomness, clip, noised
from calibration.privacy.readout import COUNT, ROW_CLIP, PrivateRows
from calibration.privacy.reference import Reference, task_reference
from calibration.settings import Settings
from calibration.stages.read import read_privately
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.fitting.folds import FOLDS, folds_of

PRIVACY = {"exact": 0.0, "epsilon 8": 8.0, "epsilon 1": 1.0}


@dataclass(frozen=True)
class Rows:
    """Examples as the attacks need them: distances of their activations [rows, layers, 2, hidden],
    what readouts read of them, their folds, their gradients by channels [rows, sites, 2, hidden],
    and their words [rows, vocabulary]."""

    distances: Tensor
    read: PrivateRows
    folds: Ints
    gradients: Tensor
    words: Floats

    @property
    def labels(self) -> Ints:
        return self.read.labels

    def facts(self, clients: Sequence[Ints]) -> Facts:
        """The truth about clients, each given by the positions of its examples."""
        one_hot = np.eye(self.labels.max() + 1)[self.labels]
        return Facts(
            np.stack([one_hot[members].mean(axis=0) for members in clients]),
            np.stack([self.words[members].mean(axis=0) for members in clients]),
        )


class Message(Protocol):
    """A kind of message, and how it leaves a client."""

    def added(self, rows: Rows) -> Tensor:
        """What each row adds to the mean that is sent, [rows, ...]."""
        ...

    def deviation(self, count: int) -> float:
        """Standard deviation of the noise on a mean over `count` rows."""
        ...

    def sent(self, added: Tensor, generator: np.random.Generator) -> Tensor:
        """What the attacker receives of a client's rows."""
        ...


@dataclass(frozen=True)
class Vector:
    """The context vector. Settings without epsilon: exact but for `wire`."""

    settings: Settings
    reference: Reference
    wire: Wire = "fp32"

    def added(self, rows: Rows) -> Tensor:
        """Distances."""
        if not self.settings.private:
            return rows.distances
        return clip(rows.distances, self.settings.vector_clip)

    def deviation(self, count: int) -> float:
        return vector_deviation(self.settings, count, count) if self.settings.private else 0.0

    def sent(self, added: Tensor, generator: Randomness) -> Tensor:
        """The mean distance."""
        mean = added.mean(dim=0)
        if self.settings.private:
            return noised(mean, self.deviation(len(added)), generator)
        vector = self.reference.at(mean)
        received = decode(encode(vector, self.wire), self.wire, tuple(vector.shape))
        return self.reference.distances(received)


@dataclass(frozen=True)
class LabelRows:
    """What label rows are fitted from: sums of last hidden states and counts, by label and fold;
    with epsilon by label alone. Second moments, which are told too without it, are left out."""

    settings: Settings

    def added(self, rows: Rows) -> Tensor:
        """A row in the place of its label and fold."""
        read, private = rows.read, self.settings.private
        told = read.bounded(with_states=True) if private else exactly(read)
        labels = int(read.labels.max()) + 1
        cells = read.labels if private else read.labels * FOLDS + rows.folds
        placed = torch.zeros(len(told), labels * (1 if private else FOLDS), told.shape[1])
        placed[torch.arange(len(told)), torch.from_numpy(cells)] = told.float()
        return placed

    def deviation(self, count: int) -> float:
        if not self.settings.private:
            return 0.0
        return noise_multiplier(self.settings, count) * ROW_CLIP / count

    def sent(self, added: Tensor, generator: Randomness) -> Tensor:
        """The sums over the number of rows, which is public."""
        return noised(added.mean(dim=0), self.deviation(len(added)), generator)


@dataclass(frozen=True)
class Channels:
    """A client's update of channels after the first round, as far as it is linear: the mean of its
    steps' gradients at the values that the round begins with. What AdamW makes of each, and how
    values move meanwhile, would only make it harder to read."""

    settings: Settings

    def added(self, rows: Rows) -> Tensor:
        """Gradients."""
        if not self.settings.private:
            return rows.gradients
        return clip(rows.gradients, self.settings.gradient_clip)

    def deviation(self, count: int) -> float:
        if not self.settings.private:
            return 0.0
        bound = self.settings.gradient_clip / (sampling_rate(self.settings, count) * count)
        return noise_multiplier(self.settings, count) * bound / self.settings.local_steps**0.5

    def sent(self, added: Tensor, generator: np.random.Generator) -> Tensor:
        """The mean over the steps, which with epsilon each use a Poisson sample of the rows."""
        if not self.settings.private:
            return added.mean(dim=0)
        count, steps = len(added), self.settings.local_steps
        rate = sampling_rate(self.settings, count)
        used = torch.from_numpy(generator.binomial(steps, rate, count) / (steps * rate)).float()
        mean = torch.tensordot(used, added, dims=1) / count
        return noised(mean, self.deviation(count), generator)


def exactly(read: PrivateRows) -> Tensor:
    """What a client that is not private adds to its sums of hidden states and counts."""
    return torch.from_numpy(np.hstack([read.distances, np.full((len(read.labels), 1), COUNT)]))


@dataclass(frozen=True)
class Scene:
    """The attacker's rows, the clients' rows, and the reference both know."""

    public: Rows
    private: Rows
    reference: Reference

    @cached_property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.reference.activation.shape[0]))

    def messages(self) -> Iterator[tuple[str, Message]]:
        """The kinds of message and ways of sending that are compared."""
        for name, epsilon in PRIVACY.items():
            settings = Settings(layers=self.layers, epsilon=epsilon)
            yield f"vector, {name}", Vector(settings, self.reference)
            if not epsilon:
                yield "vector, int8", Vector(settings, self.reference, "int8")
            yield f"label rows, {name}", LabelRows(replace(settings, fit="head"))
            yield f"channels, {name}", Channels(replace(settings, fit="channels"))


def received(
    message: Message, added: Tensor, clients: Sequence[Ints], generator: np.random.Generator
) -> Floats:
    """What clients with the given rows send, [clients, features]."""
    sent = [message.sent(added[members], generator) for members in clients]
    return torch.stack(sent).flatten(1).numpy()


@torch.inference_mode()
def activations(model: HookedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Every site's output at the last token, [sequences, layers, 2, hidden]."""
    found = torch.empty(len(sequences), model.num_layers, 2, model.hidden_size)
    for positions in by_length([len(ids) for ids in sequences]):
        batch = [sequences[position] for position in positions]
        with recorded(model, batch) as outputs:
            model.hidden(batch)
        found[positions] = outputs.cpu()
    return found


def gradients(
    model: HookedModel,
    task: TaskDefinition,
    examples: Sequence[Example],
    vector: Tensor,
    settings: Settings,
) -> Tensor:
    """Every example's by channels as they begin under a vector, [rows, sites, 2, hidden]."""
    targets = label_targets(model, task, examples, settings.loss)
    values = first_values("channels", vector, settings)
    mask = adapted_mask(model.num_layers, settings.layers, settings.sites)
    silent = Noise(0.0, torch.Generator(model.device))
    objective = Objective(model, targets, injection_of("channels", vector), values, mask, silent)
    found = torch.empty(len(examples), *values[mask].shape)
    everyone = range(len(examples))
    own = example_gradients(objective, everyone, values[mask])
    for piece, (_, gradients) in zip(objective.pieces(everyone), own, strict=True):
        found[piece] = gradients.cpu()
    return found


def even_split(
    data: DataSet, public_rows: int, private_rows: int
) -> tuple[list[Example], list[Example]]:
    """The attacker's rows and the clients', with as many of each label and none in both."""
    names = data.task.names
    public: list[Example] = []
    private: list[Example] = []
    for name in names:
        rows = sorted({row.text for row in data.train if row.label == name})
        chosen = random.Random(0).sample(rows, (public_rows + private_rows) // len(names))
        edge = public_rows // len(names)
        public += [Example(text, name) for text in chosen[:edge]]
        private += [Example(text, name) for text in chosen[edge:]]
    return public, private


def prepare(
    model: HookedModel, data: DataSet, public_rows: int, private_rows: int, words: int
) -> Scene:
    """Run every example through the model, once for each kind of message."""
    settings = Settings(layers=tuple(range(model.num_layers)), fit="channels")
    reference = task_reference(model, data.task, settings)
    public, private = even_split(data, public_rows, private_rows)
    counter = CountVectorizer(binary=True, stop_words="english", max_features=words)
    counter.fit([example.text for example in public])
    found = [activations(model, rendered(model, data.task, some)) for some in (public, private)]
    vector = found[0].mean(dim=0)  # as of other clients: what a round begins from

    def rows(examples: list[Example], seen: Tensor) -> Rows:
        occurs = counter.transform([example.text for example in examples]).toarray()
        return Rows(
            reference.distances(seen),
            read_privately(model, data.task, examples, None, settings),
            folds_of([example.text for example in examples]),
            gradients(model, data.task, examples, vector, settings),
            occurs.astype(np.float64),
        )

    return Scene(rows(public, found[0]), rows(private, found[1]), reference)
