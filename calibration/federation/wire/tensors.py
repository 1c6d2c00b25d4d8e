"""Tensors as they travel: full precision, half, or one byte a value.

Knows arrays and nothing of messages. What arrives is untrusted: `decode` checks names, types
and shapes before it computes anything, and the values it returns are finite.
"""

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
    rows are sites, whose sizes differ by orders of magnitude. Rounding is to the nearest.
    Raises FederationError for a value that `fp16` cannot hold.
    """
    values = tensor.detach().float().cpu().numpy()
    if wire == "fp16" and (largest := np.abs(values).max()) > FP16_LARGEST:
        raise FederationError(
            f"has a value of {largest:.3g}, fp16 holds {FP16_LARGEST:g}; federate with --wire fp32"
        )
    if wire != "int8":
        return {"values": values.astype(DTYPES[wire]["values"])}
    scale = np.abs(values).max(axis=-1, keepdims=True) / LARGEST
    steps = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
    return {"values": np.rint(steps).astype(np.int8), "scale": scale.astype(np.float32)}


def decode(arrays: Mapping[str, npt.NDArray], wire: Wire, shape: tuple[int, ...]) -> Tensor:
    """The float32 tensor of `shape` that was encoded. Raises FederationError."""
    expected = DTYPES[wire]
    if arrays.keys() != expected.keys():
        raise FederationError(f"sent arrays {sorted(arrays)}, expected {sorted(expected)}")
    for name, dtype in expected.items():
        wanted = shape if name == "values" else (*shape[:-1], 1)
        array = arrays[name]
        if array.dtype != dtype or array.shape != wanted:
            raise FederationError(
                f"sent {name} as {array.dtype} {array.shape}, expected {np.dtype(dtype)} {wanted}"
            )
    values = arrays["values"].astype(np.float32)
    if wire == "int8":
        values = values * arrays["scale"]
    if not np.isfinite(values).all():
        raise FederationError("sent NaN or infinite values")
    return torch.from_numpy(values)


def encoded_bytes(shape: tuple[int, ...], wire: Wire) -> int:
    """Bytes of the values of a tensor on the wire, headers aside."""
    return sum(array.nbytes for array in encode(torch.zeros(shape), wire).values())
