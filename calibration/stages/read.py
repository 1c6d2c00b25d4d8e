"""Stage 3, on a client: its rows' features under a fit, to fit readouts to and to judge rungs by.

Features of the bare model come from all rows: a readout of them is fitted to nothing else. Those
under an injection come from held-out rows, as the others were seen when it was fitted.
"""

from collections.abc import Sequence

import numpy as np
import torch

from calibration.data.examples import Example
from calibration.data.rows import Rows
from calibration.model.hooked import HookedModel, injected
from calibration.model.score import label_features
from calibration.privacy.readout import PrivateRows
from calibration.privacy.reference import REFERENCE_TEXTS
from calibration.settings import Settings
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import Injection, adapted_mask
from ifedicl_serve.fitting.features import Features
from ifedicl_serve.fitting.folds import folds_of
from ifedicl_serve.fitting.reader import Read, Reader


def read_rows(
    model: HookedModel,
    task: TaskDefinition,
    rows: Rows,
    injection: Injection | None,
    settings: Settings,
    by_held_out: bool,
) -> Read:
    """Under an injection, or of the bare model (None). Rungs are judged by held-out rows, or by all
    if those do (not `by_held_out`)."""
    bare = injection is None
    chosen = rows.everything if bare else list(rows.held_out if by_held_out else rows.train)
    features = features_of(model, task, chosen, injection, settings)
    judged = np.ones(len(chosen), dtype=bool)
    if bare and by_held_out:
        judged[: len(rows.train)] = False
    labels = np.array(task.indices(chosen), dtype=int)
    return Read(Reader(features, labels, folds_of([row.text for row in chosen])), judged)


def read_privately(
    model: HookedModel,
    task: TaskDefinition,
    examples: Sequence[Example],
    injection: Injection | None,
    settings: Settings,
) -> PrivateRows:
    """A private client's rows, and the public texts that they are told as distances from."""
    public = [Example(text, task.names[0]) for text in REFERENCE_TEXTS]
    features, reference = (
        features_of(model, task, some, injection, settings) for some in (examples, public)
    )
    mean = Features(*(part.mean(axis=0, keepdims=True) for part in reference))
    return PrivateRows(features, np.array(task.indices(examples), dtype=int), mean)


@torch.inference_mode()
def features_of(
    model: HookedModel,
    task: TaskDefinition,
    examples: Sequence[Example],
    injection: Injection | None,
    settings: Settings,
) -> Features:
    """What the model says of examples' texts."""
    trie, tail = task.trie(model.tokenizer), task.tail_tokens(model.tokenizer)
    prompts = [task.prompt.render(example.text) for example in examples]
    if injection is None:
        return label_features(model, prompts, trie, tail)
    mask = adapted_mask(model.num_layers, settings.layers, settings.sites)
    with injected(model, injection, mask, settings.extent):
        return label_features(model, prompts, trie, tail)


def held_out_loss(
    model: HookedModel,
    task: TaskDefinition,
    rows: Rows,
    injection: Injection,
    settings: Settings,
) -> tuple[float, int]:
    """The summed loss of a client's held-out rows, and how many there are."""
    log_probs = features_of(model, task, rows.held_out, injection, settings).log_probs
    labels = task.indices(rows.held_out)
    return -float(log_probs[np.arange(len(labels)), labels].sum(dtype=float)), len(labels)
