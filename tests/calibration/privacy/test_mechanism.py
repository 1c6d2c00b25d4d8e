"""Clipping, noise and sampling do what the accountant assumes."""

import numpy as np
import pytest
import torch

from calibration.privacy.mechanism import SYSTEM, clip, noised, poisson_sample, shrunk


def test_clip_bounds_long_rows_and_leaves_short_ones_alone() -> None:
    rows = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))
    rows *= torch.linspace(0.01, 3, 50).view(-1, 1, 1)
    lengths = rows.flatten(1).norm(dim=1)
    clipped = clip(rows, 2.0)
    short = lengths <= 2.0
    assert short.any() and not short.all()
    assert torch.equal(clipped[short], rows[short])
    torch.testing.assert_close(
        clipped[~short].flatten(1).norm(dim=1), torch.full((50,), 2.0)[~short]
    )
    cosine = torch.cosine_similarity(clipped.flatten(1), rows.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(50))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_contributes_nothing(value: float) -> None:
    rows = torch.ones(2, 4)
    rows[1, 2] = value
    assert clip(rows, 1.0).tolist() == [[0.5] * 4, [0.0] * 4]


def test_no_rows_sum_to_zero() -> None:
    assert clip(torch.zeros(0, 3, 2), 1.0).sum(dim=0).tolist() == [[0.0, 0.0]] * 3


def test_noise_has_the_deviation_asked_for() -> None:
    values = torch.full((200, 1000), 5.0)
    noise = noised(values, 1.5, SYSTEM) - values
    assert float(noise.std()) == pytest.approx(1.5, rel=0.01)  # 4.5 sigma of the estimate
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)


def test_shrinking_comes_nearer_to_the_truth_and_removes_pure_noise() -> None:
    """James and Stein: a mean squared error of at most width * deviation^2, and much less for
    short rows; never a row turned round."""
    truth = torch.zeros(3, 1000)
    truth[1], truth[2] = 0.5, 50.0
    noisy = noised(truth, 1.0, np.random.default_rng(0))
    found = shrunk(noisy, 1.0)
    errors = (found - truth).square().sum(dim=1)
    assert errors[0] < 10 and errors[1] < 300 and errors[2] < 1200  # 1000 before
    assert float(torch.cosine_similarity(found[1], noisy[1], dim=0)) == pytest.approx(1.0)
    assert shrunk(torch.full((1, 4), 0.1), 1.0).tolist() == [[0.0] * 4]
    assert torch.equal(shrunk(noisy, 0.0), noisy)


def test_system_randomness_is_uniform_normal_and_never_the_same() -> None:
    """Kolmogorov-Smirnov distances; 1.95 / sqrt(n) is exceeded once in a thousand runs."""
    uniform, normal = SYSTEM.random(100_000), SYSTEM.standard_normal((1000, 100))
    assert 0 < uniform.min() and uniform.max() < 1
    assert normal.shape == (1000, 100) and np.isfinite(normal).all()
    from scipy.stats import kstest

    assert kstest(uniform, "uniform").statistic < 0.01
    assert kstest(normal.ravel(), "norm").statistic < 0.01
    assert not np.array_equal(uniform, SYSTEM.random(100_000))


def test_poisson_sample_draws_each_by_itself() -> None:
    counts = np.zeros(20)
    sizes = []
    for _ in range(5000):
        positions = poisson_sample(20, 0.25, SYSTEM)
        counts[positions] += 1
        sizes.append(len(positions))
    assert counts / 5000 == pytest.approx(0.25, abs=0.03)  # 5 sigma
    assert np.var(sizes) == pytest.approx(20 * 0.25 * 0.75, rel=0.15)  # binomial, not fixed
    assert poisson_sample(5, 1.0, SYSTEM) == [0, 1, 2, 3, 4]
