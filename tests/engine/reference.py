"""What calibration's hooked Hugging Face model answers: the reference for every engine."""

from collections.abc import Sequence

import numpy as np

from calibration.model.hooked import HookedModel, injected
from calibration.model.score import label_log_probs
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.contract.labels import LabelTrie
from ifedicl_serve.contract.prompt import label_trie
from ifedicl_serve.contract.spec import TaskSpec


def trie_of(model: HookedModel, spec: TaskSpec) -> LabelTrie:
    """The trie of a task's labels."""
    return label_trie(model.tokenizer, spec.prompt, spec.verbalizations)


def hooked(
    model: HookedModel, artifact: Artifact, texts: Sequence[str], adapted: bool = True
) -> np.ndarray:
    """Label log-probabilities [texts, labels], by the task or by the base model alone."""
    spec = artifact.spec
    mask = adapted_mask(spec.num_layers, spec.layers, spec.sites) & adapted
    prompts = [spec.prompt.render(text) for text in texts]
    with injected(model, artifact.injection, mask):
        return label_log_probs(model, prompts, trie_of(model, spec))
