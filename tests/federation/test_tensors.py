"""Tensors on the wire: exact, half, and one byte a value."""

import numpy as np
import pytest
import torch

from calibration.federation.wire.tensors import WIRES, decode, encode, encoded_bytes, received
from ifedicl_serve.errors import FederationError

SHAPE = (3, 2, 64)


@pytest.fixture
def tensor() -> torch.Tensor:
    """Rows of very different sizes, as sites have, and one of zeros."""
    torch.manual_seed(0)
    tensor = torch.randn(SHAPE) * torch.tensor([1e-3, 1.0, 50.0]).view(3, 1, 1)
    tensor[1, 1] = 0
    return tensor


def test_fp32_is_exact(tensor: torch.Tensor) -> None:
    assert torch.equal(decode(encode(tensor, "fp32"), "fp32", SHAPE), tensor)


def test_fp16_is_numpys(tensor: torch.Tensor) -> None:
    expected = tensor.numpy().astype(np.float16).astype(np.float32)
    assert np.array_equal(decode(encode(tensor, "fp16"), "fp16", SHAPE).numpy(), expected)


def test_fp16_refuses_what_it_cannot_hold(tensor: torch.Tensor) -> None:
    tensor[0, 0, 0] = -70_000
    with pytest.raises(FederationError, match="a value of 7e.04, fp16 holds 65504; .*--wire fp32"):
        encode(tensor, "fp16")


def test_int8_is_within_half_a_step_of_its_row(tensor: torch.Tensor) -> None:
    step = tensor.abs().amax(dim=-1, keepdim=True) / 127
    error = (decode(encode(tensor, "int8"), "int8", SHAPE) - tensor).abs()
    assert (error <= step / 2 * 1.0001).all()
    assert torch.equal(decode(encode(tensor, "int8"), "int8", SHAPE)[1, 1], tensor[1, 1])


def test_int8_worked_by_hand() -> None:
    arrays = encode(torch.tensor([[127.0, -63.6, 0.4]]), "int8")
    assert arrays["values"].tolist() == [[127, -64, 0]]
    assert arrays["scale"].tolist() == [[1.0]]


@pytest.mark.parametrize("wire", WIRES)
def test_what_was_sent_is_read_the_same_twice(tensor: torch.Tensor, wire) -> None:
    """The coordinator keeps what its clients decode, and sends it on."""
    once = received(tensor, wire)
    assert torch.equal(received(once, wire), once)


def test_bytes_at_the_size_of_llama_3_8b() -> None:
    """32 layers, 2 sites, width 4096: the paper sends 514 KB once and 1.8 KB a round."""
    shape = (32, 2, 4096)
    sizes = {wire: encoded_bytes(shape, wire) for wire in WIRES}
    assert sizes == {"fp32": 1_048_576, "fp16": 524_288, "int8": 262_400}
    assert encoded_bytes((32, 2, 2), "fp32") == 512


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "sent arrays [], expected ['values']"),
        ({"values": np.zeros(SHAPE, np.float64)}, "sent values as float64"),
        ({"values": np.zeros((3, 2, 63), np.float32)}, "(3, 2, 63), expected float32 (3, 2, 64)"),
        ({"values": np.full(SHAPE, np.inf, np.float32)}, "sent NaN or infinite values"),
        ({"values": np.zeros(SHAPE, np.float32), "text": np.zeros(1)}, "sent arrays"),
    ],
)
def test_what_does_not_fit_is_refused(arrays, message: str) -> None:
    with pytest.raises(FederationError) as caught:
        decode(arrays, "fp32", SHAPE)
    assert message in str(caught.value)
