"""How much of a job is in front of whoever classifies next."""

import pytest

from api.making.features import TOKENS_OF_ONE, batch_of


@pytest.mark.parametrize(
    ("length", "requests", "most", "size"),
    [
        (10, 1, 64, 64),
        (10, 1, 4, 4),
        (10, 3, 64, 21),  # of three requests each
        (10, 100, 64, 1),
        (TOKENS_OF_ONE * 2, 1, 64, 32),
        (TOKENS_OF_ONE * 2, 2, 64, 16),
        (TOKENS_OF_ONE * 9, 1, 4, 1),
    ],
)
def test_a_batch_is_bound_by_engine_requests_and_by_tokens(length, requests, most, size):
    assert len(batch_of([range(length)] * 100, requests, most)) == size


def test_fewer_prompts_than_a_batch():
    assert len(batch_of([range(5)] * 3, 1, 64)) == 3
