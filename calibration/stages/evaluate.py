"""How well a task is classified: without adaptation, with demonstrations in the prompt, adapted.

Knows label log-probabilities and true labels; accuracy, log-loss and macro-F1 come from
scikit-learn.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibration.data.demonstrations import choose_demonstrations
from calibration.data.examples import Example
from calibration.model.hooked import HookedModel, injected
from calibration.model.score import label_features, label_log_probs
from calibration.settings import Settings
from calibration.stages.read import features_of
from calibration.task import TaskDefinition
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.injection import Injection, TensorName, adapted_mask
from ifedicl_serve.contract.readout import Readout, log_softmax, row_scores
from ifedicl_serve.contract.spec import Extent
from ifedicl_serve.contract.tokens import Prompt, token_ids
from ifedicl_serve.errors import DataError
from ifedicl_serve.fitting.features import Features, FloatArray
from ifedicl_serve.fitting.judge import DIGITS, Measured, Metrics


class Evaluation:
    """A model, a task and the rows to classify; each method is one way of doing it."""

    def __init__(
        self, model: HookedModel, task: TaskDefinition, examples: Sequence[Example]
    ) -> None:
        self.model = model
        self.task = task
        self.trie = task.trie(model.tokenizer)
        self.tail = task.tail_tokens(model.tokenizer)
        self.texts = [example.text for example in examples]
        self.truth = np.array(task.indices(examples))

    def zero_shot(self) -> FloatArray:
        """Label log-probabilities [rows, labels] of the bare prompt."""
        return self._scores(self.texts)

    def mean_removed(self, zero_shot: FloatArray, texts: Sequence[str]) -> FloatArray:
        """`zero_shot` less the mean label logit over unlabelled `texts`.

        Contextual calibration (arXiv 2102.09690) with real texts for its content-free input:
        the cheap rival that needs neither vectors nor labels.
        """
        removed = zero_shot - self._scores(texts).mean(axis=0)
        return log_softmax(removed).astype(np.float32)

    def few_shot(self, train: Sequence[Example], shots: int, seed: int) -> FloatArray:
        """With `shots` demonstrations in the prompt, spread over the labels."""
        return label_log_probs(self.model, self._few_shot_prompts(train, shots, seed), self.trie)

    def refuse_long(self, train: Sequence[Example], shots: int, seed: int) -> None:
        """Raise DataError if a few-shot prompt is longer than the model reads."""
        room = self.model.max_tokens - self.task.label_room(self.model.tokenizer)
        prompts = self._few_shot_prompts(train, shots, seed)
        for number, prompt in enumerate(prompts, start=1):
            tokens = len(token_ids(self.model.tokenizer, prompt))
            if tokens > room:
                raise DataError(
                    f"row {number} with {shots} demonstrations before it has {tokens} tokens, the "
                    f"model reads at most {room} before a label; give fewer --shots, or no --train"
                )

    def adapted(
        self,
        injection: Injection,
        mask: Tensor,
        extent: Extent = "all",
        readout: Readout | None = None,
    ) -> FloatArray:
        """With a calibrated task injected, and read out."""
        with injected(self.model, injection, mask, extent):
            features = self.features(self.texts)
        return read_out(features, readout)

    def metrics(self, log_probs: FloatArray) -> Metrics:
        """Accuracy, log-loss and macro-F1 of label log-probabilities."""
        return metrics(log_probs, self.truth)

    def features(self, texts: Sequence[str]) -> Features:
        """What the model says of texts in the task's prompt."""
        prompts = [self.task.prompt.render(text) for text in texts]
        return label_features(self.model, prompts, self.trie, self.tail)

    def _few_shot_prompts(self, train: Sequence[Example], shots: int, seed: int) -> list[Prompt]:
        demonstrations = choose_demonstrations(train, shots, seed)
        return [self.task.few_shot_prompt(demonstrations, text) for text in self.texts]

    def _scores(self, texts: Sequence[str]) -> FloatArray:
        return self.features(texts).log_probs


def compare(
    model: HookedModel,
    artifact: Artifact,
    examples: Sequence[Example],
    train: Sequence[Example],
    shots: int,
    seed: int = 0,
) -> dict[str, Metrics]:
    """Metrics of every way to classify `examples`; those that need `train` only if it is given.

    Raises DataError, before anything is computed, for a few-shot prompt that is too long.
    """
    spec = artifact.spec
    evaluation = Evaluation(model, TaskDefinition.of(spec), examples)
    if train:
        evaluation.refuse_long(train, shots, seed)
    mask = adapted_mask(spec.num_layers, spec.layers, spec.sites)
    zero_shot = evaluation.zero_shot()
    scores = {"zero_shot": zero_shot}
    if train:
        texts = [example.text for example in train]
        scores["zero_shot_mean_removed"] = evaluation.mean_removed(zero_shot, texts)
        scores["few_shot"] = evaluation.few_shot(train, shots, seed)
    scores["adapted"] = evaluation.adapted(artifact.injection, mask, spec.extent, artifact.readout)
    return {name: evaluation.metrics(log_probs) for name, log_probs in scores.items()}


def before_and_after(
    model: HookedModel,
    task: TaskDefinition,
    examples: Sequence[Example],
    settings: Settings,
    tensors: Mapping[TensorName, Tensor],
) -> Measured:
    """Zero-shot metrics and those of a task's tensors, on examples that it was not made of."""
    evaluation = Evaluation(model, task, examples)
    before = evaluation.zero_shot()
    features = features_of(model, task, examples, Injection.of(tensors), settings)
    after = read_out(features, Readout.of(tensors))
    return Measured(evaluation.metrics(before), evaluation.metrics(after), len(examples))


def read_out(features: Features, readout: Readout | None) -> FloatArray:
    """Label log-probabilities [rows, labels] of a task with this readout."""
    if readout is None:
        return features.log_probs
    rows = readout.label_rows
    scores = None if rows is None else row_scores(torch.from_numpy(features.hidden), rows).numpy()
    return readout(features.log_probs, scores).astype(np.float32)


def metrics(log_probs: FloatArray, truth: npt.NDArray[np.int_]) -> Metrics:
    """Accuracy, mean negative log-probability of the true label, macro-F1."""
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    predicted = log_probs.argmax(axis=1)
    labels = list(range(log_probs.shape[1]))
    probabilities = np.exp(log_softmax(log_probs.astype(np.float64)))
    values = {
        "accuracy": accuracy_score(truth, predicted),
        "log_loss": log_loss(truth, probabilities, labels=labels),
        "macro_f1": f1_score(truth, predicted, average="macro", zero_division=0.0),
    }
    return {name: round(float(value), DIGITS) for name, value in values.items()}
