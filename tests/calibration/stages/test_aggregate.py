"""FedAvg against numbers worked by hand and against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.stages.aggregate import aggregate_updates, aggregate_vectors, fedavg
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from ifedicl_serve.errors import DataError


def test_worked_by_hand() -> None:
    # (1 * 2 + 3 * 6) / 4 = 5 and (1 * 0 + 3 * -4) / 4 = -3
    mean = fedavg([torch.tensor([2.0, 0.0]), torch.tensor([6.0, -4.0])], [1, 3])
    assert mean.tolist() == [5.0, -3.0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.integers(0, 2**31))
def test_equals_numpy_average(counts: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(len(counts), 3, 2, 4)).astype(np.float32)
    mean = fedavg([torch.from_numpy(value) for value in values], counts)
    expected = np.average(values.astype(np.float64), axis=0, weights=counts)
    np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-6, atol=1e-7)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=9))
def test_equal_values_come_back_exactly(counts: list[int]) -> None:
    assert (fedavg([torch.ones(4)] * len(counts), counts) == 1).all()


def test_vectors_and_updates_are_weighted_by_their_counts() -> None:
    low, high = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    vectors = [ClientVector(low, 1, {}), ClientVector(high, 3, {})]
    updates = [ClientUpdate(low, 3, ()), ClientUpdate(high, 1, ())]
    assert (aggregate_vectors(vectors) == 0.75).all()
    assert (aggregate_updates(updates) == 0.25).all()


@pytest.mark.parametrize(
    ("tensors", "counts", "message"),
    [
        ([], [], "no client sent anything"),
        ([torch.ones(2), torch.ones(3)], [1, 1], r"client 1 sent shape \(3,\)"),
        ([torch.ones(2), torch.tensor([1.0, torch.nan])], [1, 1], "client 1 sent NaN"),
        ([torch.tensor([torch.inf])], [1], "client 0 sent NaN or infinite"),
        ([torch.ones(2)], [0], "client 0 counts 0 examples"),
    ],
)
def test_refusals(tensors: list[torch.Tensor], counts: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fedavg(tensors, counts)
