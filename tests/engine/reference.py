"""What calibration's hooked Hugging Face model answers: the reference for every engine."""

from collections.abc import Sequence

import numpy as np
import torch

from calibration.model.hooked import HookedModel, injected
from calibration.model.score import label_features
from calibration.stages.evaluate import read_out
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.contract.labels import LabelTrie
from ifedicl_serve.contract.prompt import label_trie, tail_tokens
from ifedicl_serve.contract.readout import row_scores
from ifedicl_serve.contract.spec import TaskSpec
from ifedicl_serve.fitting.features import Features


def trie_of(model: HookedModel, spec: TaskSpec) -> LabelTrie:
    """The trie of a task's labels."""
    return label_trie(model.tokenizer, spec.prompt, spec.verbalizations)


def hooked(
    model: HookedModel, artifact: Artifact, texts: Sequence[str], adapted: bool = True
) -> np.ndarray:
    """Label log-probabilities [texts, labels], by the task or by the base model alone."""
    features = _features(model, artifact, texts, adapted)
    return read_out(features, artifact.readout if adapted else None)


def worker_scores(model: HookedModel, artifact: Artifact, texts: Sequence[str]) -> np.ndarray:
    """What a worker answers of labels that are a token each: their log-probabilities [texts,
    labels], and behind them the scores of the task's label rows, if it has some."""
    features = _features(model, artifact, texts, adapted=True)
    if "label_rows" not in artifact.tensors:
        return features.log_probs
    rows = row_scores(torch.from_numpy(features.hidden), artifact.tensors["label_rows"])
    return np.concatenate([features.log_probs, rows.numpy()], axis=1)


def _features(
    model: HookedModel, artifact: Artifact, texts: Sequence[str], adapted: bool
) -> Features:
    spec = artifact.spec
    mask = adapted_mask(spec.num_layers, spec.layers, spec.sites) & adapted
    prompts = [spec.prompt.render(text) for text in texts]
    tail = tail_tokens(model.tokenizer, spec.prompt)
    with injected(model, artifact.injection, mask, spec.extent):
        return label_features(model, prompts, trie_of(model, spec), tail)
