"""What no honest client sends: values, coefficients and vectors that would spoil the average."""

from statistics import median

from torch import Tensor

from ifedicl_serve.contract.injection import BETA, LAMBDA
from ifedicl_serve.errors import FederationError

LARGEST_ACTIVATION = 1e7  # some models exceed fp16's 65504; squares overflow at 1e19
LARGEST_COEFFICIENT = 100.0  # fitted ones stay within about 3
LARGEST_NORM_RATIO = 10.0  # of a client's vector to the median client's


def outsized(vectors: dict[int, Tensor]) -> list[int]:
    """Clients whose vector is far longer than the median one; two cannot outvote each other."""
    norms = {client: float(vector.norm()) for client, vector in vectors.items()}
    limit = LARGEST_NORM_RATIO * median(norms.values())
    return [client for client, norm in norms.items() if len(norms) > 2 and norm > limit]


def refuse_activations(vector: Tensor) -> None:
    """Raise FederationError for a value that no model's activations have."""
    _refuse_beyond(vector, LARGEST_ACTIVATION)


def refuse_coefficients(coefficients: Tensor, untouched: Tensor) -> None:
    """Raise FederationError for coefficients that no fit arrives at."""
    _refuse_beyond(coefficients, LARGEST_COEFFICIENT)
    identity = (coefficients[..., LAMBDA] == 0) & (coefficients[..., BETA] == 1)
    if not identity[untouched].all():
        raise FederationError("sent coefficients for sites that the task does not adapt")


def _refuse_beyond(tensor: Tensor, largest: float) -> None:
    seen = float(tensor.abs().max())
    if seen > largest:
        raise FederationError(f"sent a value of {seen:.3g}, expected within {largest:g}")
