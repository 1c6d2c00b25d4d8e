"""What calibration fitted, in so few numbers that a caller may be told: never a vector."""

from torch import Tensor

from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.injection import BETA, LAMBDA, SITES
from ifedicl_serve.schema import Fitted, InjectionCard, ReadoutCard


def fitted(artifact: Artifact) -> Fitted:
    """An artifact's injection, layer by layer and site by site, and its readout."""
    return Fitted(
        id=artifact.spec.name,
        digest=artifact.digest,
        injection=_injection(artifact),
        readout=_readout(artifact),
    )


def _injection(artifact: Artifact) -> InjectionCard:
    scale, shift = artifact.injection.scale.double(), artifact.injection.shift.double()
    has_coefficients = artifact.spec.fit == "coefficients"
    return InjectionCard(
        layers=list(range(artifact.spec.num_layers)),
        sites=list(SITES),
        scale=scale.mean(dim=-1).tolist(),
        scale_spread=scale.std(dim=-1, correction=0).tolist(),
        shift=_root_mean_square(shift).tolist(),
        beta=artifact.coefficients[..., BETA].tolist() if has_coefficients else None,
        lambda_=artifact.coefficients[..., LAMBDA].tolist() if has_coefficients else None,
    )


def _root_mean_square(values: Tensor) -> Tensor:
    """Over the last axis; of float64, whose squares of any float32 are finite."""
    return values.square().mean(dim=-1).sqrt()


def _readout(artifact: Artifact) -> ReadoutCard | None:
    readout = artifact.readout
    if readout is None:
        return None
    names = [label.name for label in artifact.spec.labels]
    return ReadoutCard(
        sharpness=readout.sharpness,
        bias=dict(zip(names, readout.bias.tolist(), strict=True)),
        label_rows=readout.label_rows is not None,
    )
