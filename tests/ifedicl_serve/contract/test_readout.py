"""The readout by hand, and what is absent changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ifedicl_serve.contract.readout import Readout, row_scores

LOG_PROBS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=np.float32))
FACTORS = st.floats(-50, 50, width=32)


def test_by_hand():
    readout = Readout(2.0, np.array([0.0, 1.0, 0.0], dtype=np.float32), torch.eye(3))
    scores = row_scores(torch.tensor([[0.0, 0.0, np.log(2)]]), readout.label_rows).numpy()
    unnormalised = np.array([0.25, 0.09 * np.e, 0.04 * 2])
    np.testing.assert_allclose(
        np.exp(readout(LOG_PROBS[:1], scores)), [unnormalised / unnormalised.sum()], rtol=1e-6
    )


def test_its_identity_changes_nothing():
    readout = Readout(1.0, np.zeros(3, dtype=np.float32))
    np.testing.assert_allclose(readout(LOG_PROBS, None), LOG_PROBS, atol=1e-7)


@given(
    log_probs=arrays(np.float32, (2, 4), elements=st.floats(-80, 0, width=32)),
    sharpness=FACTORS,
    bias=arrays(np.float32, 4, elements=FACTORS),
    scores=arrays(np.float32, (2, 4), elements=FACTORS),
)
def test_probabilities_sum_to_1(log_probs, sharpness, bias, scores):
    read = Readout(sharpness, bias)(log_probs, scores)
    assert np.exp(read).sum(axis=-1) == pytest.approx([1, 1])


def test_rows_are_multiplied_in_float32():
    hidden = torch.full((1, 256), 1 + 2**-7, dtype=torch.bfloat16)
    assert row_scores(hidden, torch.full((1, 256), 0.1)).item() == pytest.approx(25.8, abs=1e-3)
