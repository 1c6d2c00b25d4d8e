"""Flower's robust rules through our table: hand-worked numbers, numpy, and poisoned clients."""

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from calibration.settings import Aggregation
from calibration.stages.aggregate import aggregate_updates, aggregate_vectors, fedavg
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from calibration.stages.robust import AGGREGATORS, LEAST_CLIENTS
from ifedicl_serve.contract.injection import initial_coefficients
from ifedicl_serve.errors import DataError

ROBUST = sorted(set(AGGREGATORS) - {"fedavg"})
COUNTS = [3, 1, 4, 1, 5]


def honest_clients(seed: int = 0) -> list[torch.Tensor]:
    """Four tensors [3, 2, 2] within about 0.1 of one another."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(3, 2, 2, generator=generator)
    return [centre + 0.03 * torch.randn(3, 2, 2, generator=generator) for _ in range(4)]


def test_settings_know_the_same_names() -> None:
    assert set(get_args(Aggregation)) == set(AGGREGATORS)
    assert AGGREGATORS["fedavg"] is fedavg


def test_worked_by_hand() -> None:
    tensors = [torch.tensor([value]) for value in (1.0, 2.0, 4.0, 5.5, -100.0)]
    results = {name: AGGREGATORS[name](tensors, COUNTS).item() for name in ROBUST}
    assert results == {
        "median": 2.0,
        "trimmed_mean": pytest.approx(7 / 3),  # without 5.5 and -100: (1 + 2 + 4) / 3
        "krum": 2.0,  # squared distances to the 2 nearest: 10, 5, 6.25 and 14.5
        "multi_krum": pytest.approx((3 * 1 + 1 * 2 + 4 * 4 + 1 * 5.5) / 9),
    }


def test_median_equals_numpy() -> None:
    tensors = [*honest_clients(), torch.full((3, 2, 2), 50.0)]
    expected = np.median(np.stack([tensor.numpy() for tensor in tensors]), axis=0)
    np.testing.assert_allclose(AGGREGATORS["median"](tensors, COUNTS).numpy(), expected)


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("counts", [COUNTS, [7] * 5, [1, 10**6, 3, 3, 10]])
def test_untouched_sites_keep_exactly_the_identity(name: str, counts: list[int]) -> None:
    start = initial_coefficients(3, layers=[1], sites=["mlp"])
    updates = []
    for client in range(5):
        changed = start.clone()
        changed[1, 1] += 0.1 * client
        updates.append(ClientUpdate(changed, counts[client], ()))
    merged = aggregate_updates(updates, AGGREGATORS[name])
    untouched = torch.ones(3, 2, dtype=torch.bool)
    untouched[1, 1] = False
    assert merged.dtype == torch.float32
    assert torch.equal(merged[untouched], start[untouched])


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("poison", [-1.0, -10.0, 100.0])
def test_a_poisoned_client_is_outvoted(name: str, poison: float) -> None:
    honest = honest_clients()
    low, high = torch.stack(honest).amin(dim=0), torch.stack(honest).amax(dim=0)
    merged = AGGREGATORS[name]([*honest, poison * honest[0]], COUNTS)
    assert ((merged >= low - 1e-6) & (merged <= high + 1e-6)).all()


def test_fedavg_follows_a_poisoned_client() -> None:
    honest = honest_clients()
    merged = fedavg([*honest, 100 * honest[0]], COUNTS)
    assert (merged - honest[0]).abs().max() > 1


@pytest.mark.parametrize("name", ROBUST)
def test_vectors_are_merged_by_the_same_rules(name: str) -> None:
    vectors = [ClientVector(torch.full((1, 2, 4), 0.5), count, {}) for count in COUNTS]
    assert (aggregate_vectors(vectors, AGGREGATORS[name]) == 0.5).all()


@pytest.mark.parametrize("name", ROBUST)
def test_the_tensors_given_are_not_changed(name: str) -> None:
    tensors = [*honest_clients(), torch.ones(3, 2, 2)]
    copies = [tensor.clone() for tensor in tensors]
    AGGREGATORS[name](tensors, COUNTS)
    assert all(map(torch.equal, tensors, copies))


@pytest.mark.parametrize("name", AGGREGATORS)
def test_nan_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="client 4 sent NaN"):
        AGGREGATORS[name]([*honest_clients(), torch.full((3, 2, 2), torch.nan)], COUNTS)


@pytest.mark.parametrize("name", ROBUST)
def test_too_few_clients_to_outvote_one_are_refused(name: str) -> None:
    few = LEAST_CLIENTS[name] - 1
    with pytest.raises(DataError, match=f"outvotes nobody among {few} clients"):
        AGGREGATORS[name](honest_clients()[:few], COUNTS[:few])


def test_flower_is_not_imported_before_a_robust_rule_is_used() -> None:
    code = "import sys, calibration.calibrate; print('flwr' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "False", printed.stderr
