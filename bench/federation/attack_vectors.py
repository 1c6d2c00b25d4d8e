"""Clients' vectors as an attacker receives them, made in bulk from activations computed once.

Every example runs through the model once; a client's vector is then a mean over some rows, sent
the way calibration sends it: the same reference, clipping, noise and int8.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from calibration.model.hooked import HookedModel, recorded
from calibration.privacy.manner import vector_deviation
from calibration.privacy.mechanism import Randomness, clip, noised
from calibration.privacy.reference import Reference, task_reference
from calibration.settings import Settings


@dataclass(frozen=True)
class Channel:
    """How a vector leaves a client. Settings without epsilon: exact but for `wire`."""

    settings: Settings
    wire: Wire = "fp32"

    def bounded(self, distances: Tensor) -> Tensor:
        """What of each example goes into the mean, [rows, layers, 2, hidden]."""
        if not self.settings.private:
            return distances
        return clip(distances, self.settings.vector_clip)

    def deviation(self, count: int) -> float:
        """Standard deviation of the noise on a mean over `count` examples."""
        return vector_deviation(self.settings, count, count) if self.settings.private else 0.0

    def sent(self, mean: Tensor, count: int, reference: Reference, generator: Randomness) -> Tensor:
        """The mean distance as the attacker receives it."""
        if self.settings.private:
            return noised(mean, self.deviation(count), generator)
        vector = reference.at(mean)
        received = decode(encode(vector, self.wire), self.wire, tuple(vector.shape))
        return reference.distances(received)


@dataclass(frozen=True)
class Rows:
    """Examples as the attacks need them: distances, label numbers and words [rows, vocabulary]."""

    distances: Tensor
    labels: Ints
    words: Floats

    def facts(self, clients: Sequence[Ints]) -> Facts:
        """The truth about clients, each given by the positions of its examples."""
        one_hot = np.eye(self.labels.max() + 1)[self.labels]
        return Facts(
            np.stack([one_hot[members].mean(axis=0) for members in clients]),
            np.stack([self.words[members].mean(axis=0) for members in clients]),
        )

    def bounded(self, channel: Channel) -> Floats:
        """What of each row goes into a mean, [rows, features]."""
        return channel.bounded(self.distances).flatten(1).numpy()


@dataclass(frozen=True)
class Scene:
    """The attacker's rows, the clients' rows, and the reference both know."""

    public: Rows
    private: Rows
    reference: Reference

    def vectors(
        self,
        rows: Rows,
        clients: Sequence[Ints],
        channel: Channel,
        generator: np.random.Generator,
    ) -> Floats:
        """What clients with the given rows send, [clients, features]."""
        bounded = channel.bounded(rows.distances)
        received = [
            channel.sent(bounded[members].mean(dim=0), len(members), self.reference, generator)
            for members in clients
        ]
        return torch.stack(received).flatten(1).numpy()


def channels(num_layers: int) -> dict[str, Channel]:
    """The ways of sending that are compared."""
    settings = Settings(layers=tuple(range(num_layers)))
    return {
        "exact": Channel(settings),
        "int8": Channel(settings, "int8"),
        "epsilon 8": Channel(replace(settings, epsilon=8.0)),
        "epsilon 1": Channel(replace(settings, epsilon=1.0)),
    }


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
    """Run every example through the model, once."""
    reference = task_reference(model, data.task, Settings(layers=tuple(range(model.num_layers))))
    public, private = even_split(data, public_rows, private_rows)
    counter = CountVectorizer(binary=True, stop_words="english", max_features=words)
    counter.fit([example.text for example in public])

    def rows(examples: list[Example]) -> Rows:
        found = activations(model, rendered(model, data.task, examples))
        occurs = counter.transform([example.text for example in examples]).toarray()
        labels = np.array(data.task.indices(examples))
        return Rows(reference.distances(found), labels, occurs.astype(np.float64))

    return Scene(rows(public), rows(private), reference)
