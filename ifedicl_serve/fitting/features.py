"""What a model says of a row, which all of a readout is fitted to."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Features(NamedTuple):
    """Label log-probabilities [rows, labels], and the last hidden states [rows, hidden] that the
    first token to tell labels apart is predicted from."""

    log_probs: FloatArray
    hidden: FloatArray
