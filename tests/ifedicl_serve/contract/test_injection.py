"""The injection formula: exact identities first, then hand-worked numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ifedicl_serve.contract.injection import SITES, adapted_mask, fold, initial_coefficients, inject
from tests.ifedicl_serve.factory import make_spec, make_vectors

ONE, ZERO = torch.ones(()), torch.zeros(())
EIGHTHS = st.integers(-64, 64).map(lambda number: number / 8)  # exact in bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scale_1_shift_0_is_the_identity_on_every_16_bit_number(dtype):
    h = torch.arange(1 << 16).to(torch.uint16).view(dtype)
    h = h[~h.isnan()]
    assert torch.equal(inject(h, ONE, ZERO), h)


def test_scale_1_shift_0_is_the_identity_on_float32():
    h = torch.randint(-(1 << 31), 1 << 31, (1 << 16,), generator=torch.Generator().manual_seed(0))
    h = h.to(torch.int32).view(torch.float32)
    h = h[~h.isnan()]
    assert torch.equal(inject(h, ONE, ZERO), h)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_stays(dtype):
    assert inject(torch.ones(3, dtype=dtype), ONE, torch.zeros(3)).dtype == dtype


def test_scale_and_shift_by_hand():
    h = torch.tensor([[1.0, -2.0], [4.0, 0.5]])
    assert inject(h, torch.tensor(0.5), torch.tensor([1.0, 2.0])).tolist() == [[1.5, 1], [3, 2.25]]


def test_each_token_may_have_its_own_scale_and_shift():
    h = torch.ones(2, 3)
    scale, shift = torch.tensor([[2.0], [3.0]]), torch.tensor([[0.5], [-1.0]]).expand(2, 3)
    assert inject(h, scale, shift).tolist() == [[2.5] * 3, [2.0] * 3]


def test_the_result_is_rounded_once():
    """1 + 2^-8 is between two bfloat16 numbers: rounding scale * h first would lose it."""
    h, scale = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor(1 + 2**-8)
    assert inject(h, scale, torch.tensor([2**-9])).item() == 1 + 2**-7


@given(h=EIGHTHS, lam=EIGHTHS, beta=EIGHTHS, v=EIGHTHS)
def test_a_folded_task_is_the_formula(h, lam, beta, v):
    injection = fold(torch.tensor([[[v]] * 2]), torch.tensor([[[lam, beta]] * 2]))
    adapted = inject(torch.tensor([h]), injection.scale[0, 0], injection.shift[0, 0])
    assert adapted.item() == beta * h + lam * v


def test_fold_keeps_layers_and_sites_apart():
    vector, coefficients = make_vectors(make_spec()).values()
    injection = fold(vector, coefficients)
    for layer in range(len(vector)):
        for site in range(len(SITES)):
            lam, beta = coefficients[layer, site]
            assert torch.equal(injection.shift[layer, site], lam * vector[layer, site])
            assert injection.scale[layer, site] == beta


def test_initial_coefficients_fold_to_the_identity_where_not_adapted():
    spec = make_spec(layers=(1,), sites=("mlp",))
    injection = fold(
        make_vectors(spec)["context_vector"], initial_coefficients(4, spec.layers, spec.sites)
    )
    untouched = ~adapted_mask(4, spec.layers, spec.sites)
    assert (injection.scale == 1).all()
    assert (injection.shift[untouched] == 0).all()


def test_initial_coefficients_by_hand():
    start, identity = torch.tensor([0.1, 1.0]).tolist(), [0.0, 1.0]
    assert initial_coefficients(3, [2, 0], ["mlp"]).tolist() == [
        [identity, start],
        [identity, identity],
        [identity, start],
    ]
    assert initial_coefficients(1, [0], SITES).tolist() == [[start, start]]
    assert initial_coefficients(1, [], SITES).tolist() == [[identity, identity]]


def test_adapted_mask_by_hand():
    assert adapted_mask(3, [1], ["attn"]).tolist() == [[0, 0], [1, 0], [0, 0]]
    assert adapted_mask(2, [0, 1], SITES).all()
    assert not adapted_mask(2, [0], []).any()
