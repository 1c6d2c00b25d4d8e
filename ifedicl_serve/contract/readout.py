"""The readout: how a task makes its labels' scores out of what the model says.

    logits = sharpness * label log-probabilities + label rows . last hidden state + bias

over whole labels, so labels of several tokens need nothing special. The last hidden state is the
one, behind the final norm, that the first token to tell labels apart is predicted from. Every part
may be absent, and is the identity then.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ifedicl_serve.contract.injection import TensorName

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Readout:
    """`sharpness`, `bias` [labels] and, if there are any, `label_rows` [labels, hidden], float32.

    `label_rows` is what a worker reads (`row_scores`); the rest is done where the answer is made.
    """

    sharpness: float
    bias: npt.NDArray[np.float32]
    label_rows: Tensor | None = None

    @classmethod
    def of(cls, tensors: Mapping[TensorName, Tensor]) -> "Readout | None":
        """That of an artifact's tensors; None if they have none."""
        if "sharpness" not in tensors:
            return None
        sharpness, bias = tensors["sharpness"].item(), tensors["bias"].numpy()
        return cls(sharpness, bias, tensors.get("label_rows"))

    def __call__(self, log_probs: Floats, row_scores: Floats | None) -> npt.NDArray[np.float64]:
        """Label log-probabilities [..., labels] from those of the model and `row_scores`
        [..., labels] (None without label rows)."""
        logits = self.sharpness * log_probs.astype(np.float64) + self.bias
        if row_scores is not None:
            logits = logits + row_scores
        return log_softmax(logits)


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Normalise the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def row_scores(hidden: Tensor, label_rows: Tensor) -> Tensor:
    """Label rows [labels, hidden] times last hidden states [..., hidden], in float32."""
    return hidden.float() @ label_rows.float().T
