"""Tensors as they travel: full precision, half, or one byte a value.

Knows arrays and nothing of messages. What arrives is untrusted: `refuse_other` checks names, types
and shapes before anything is computed, and that all values are finite.
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ifedicl_serve.errors import FederationError

Wire = Literal["fp32", "fp16", "int8"]
WIRES: tuple[Wire, ...] = get_args(Wire)
Arrays = dict[str, npt.NDArray]
Layout = Mapping[str, tuple[type[np.generic], tuple[int, ...]]]  # type and shape by name

DTYPES: dict[Wire, dict[str, type[np.generic]]] = {
    "fp32": {"values": np.float32},
    "fp16": {"values": np.float16},
    "int8": {"values": np.int8, "scale": np.float32},
}
LARGEST = 127
FP16_LARGEST = float(np.finfo(np.float16).max)


def encode(tensor: Tensor, wire: Wire) -> Arrays:
    """A tensor [..., width] as named arrays.

    `int8` gives every row (the last axis) a scale of its own, its largest magnitude over 127:
    rows are sites, whose sizes differ by orders of magnitude. Rounding is to the nearest. What was
    read is written the same again, as steps times a scale of 16 bits are exact.
    Raises FederationError for a value that `fp16` cannot hold.
    """
    values = tensor.detach().float().cpu().numpy()
    if wire == "fp16" and (largest := np.abs(values).max()) > FP16_LARGEST:
        raise FederationError(
            f"has a value of {largest:.3g}, fp16 holds {FP16_LARGEST:g}; federate with --wire fp32"
        )
    if wire != "int8":
        return {"values": values.astype(DTYPES[wire]["values"])}
    mantissa, exponent = np.frexp(np.abs(values).max(axis=-1, keepdims=True) / LARGEST)
    scale = np.ldexp(np.ceil(mantissa * 2**16) / 2**16, exponent)
    steps = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
    return {"values": np.rint(steps).astype(np.int8), "scale": scale.astype(np.float32)}


def layout(shape: tuple[int, ...], wire: Wire) -> Layout:
    """The arrays of a tensor of `shape`."""
    shapes = {"values": shape, "scale": (*shape[:-1], 1)}
    return {name: (dtype, shapes[name]) for name, dtype in DTYPES[wire].items()}


def decode(arrays: Arrays, wire: Wire, shape: tuple[int, ...]) -> Tensor:
    """The float32 tensor of `shape` that was encoded. Raises FederationError."""
    refuse_other(arrays, layout(shape, wire))
    values = arrays["values"].astype(np.float32)
    if wire == "int8":
        values = values * arrays["scale"]
        refuse_infinite(values)
    return torch.from_numpy(values)


def received(tensor: Tensor, wire: Wire) -> Tensor:
    """What arrives of a tensor; the same if it is sent on."""
    return decode(encode(tensor, wire), wire, tuple(tensor.shape))


def refuse_other(arrays: Arrays, expected: Layout) -> None:
    """Raise FederationError for other names, types or shapes, or values that are not finite."""
    if arrays.keys() != expected.keys():
        raise FederationError(f"sent arrays {sorted(arrays)}, expected {sorted(expected)}")
    for name, (dtype, shape) in expected.items():
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape:
            raise FederationError(
                f"sent {name} as {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
            )
        refuse_infinite(array)


def refuse_infinite(values: npt.NDArray) -> None:
    """Raise FederationError for values that are not finite."""
    if not np.isfinite(values).all():
        raise FederationError("sent NaN or infinite values")


def encoded_bytes(shape: tuple[int, ...], wire: Wire) -> int:
    """Bytes of the values of a tensor on the wire, headers aside."""
    return layout_bytes(layout(shape, wire))


def layout_bytes(expected: Layout) -> int:
    """Bytes of the values of arrays, headers aside."""
    return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in expected.values())
