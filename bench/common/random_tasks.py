"""Tasks with random vectors: enough to measure and test an engine, useless to classify."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig

from ifedicl_serve.contract.artifact import Artifact, save_artifact
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import SITES, TensorName, adapted_mask, fold
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import (
    CalibrationRecord,
    Extent,
    Fit,
    Label,
    ReadoutKind,
    TaskSpec,
)

PROMPT = PromptTemplate.of("Text: {text}\nTopic:")
LABELS = ("card", "cash", "transfer", "exchange")


def random_task(
    model: Path,
    folder: Path,
    seed: int,
    layers: Sequence[int] | None = None,
    labels: Sequence[str] = LABELS,
    identity: bool = False,
    fit: Fit = "coefficients",
    extent: Extent = "all",
    readout: ReadoutKind = "none",
    prompt: PromptTemplate = PROMPT,
) -> Artifact:
    """Write a task with tensors strong enough to change predictions, of any rung.

    `layers` None adapts all; `identity` keeps lambda 0 and beta 1 everywhere. Scale and shift of
    `channels` are the coefficients' of the same seed, every channel moved by its own.
    """
    config = AutoConfig.from_pretrained(model)
    every = range(config.num_hidden_layers) if layers is None else layers
    spec = TaskSpec(
        name=folder.name,
        prompt=prompt,
        labels=tuple(Label(name=label, verbalization=label) for label in labels),
        layers=() if fit == "none" else tuple(every),
        sites=() if fit == "none" else SITES,
        extent=extent,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        model=ModelIdentity.of(str(model)),
        calibration=CalibrationRecord(loss="restricted", rounds=1, seed=seed, client_sizes=(1,)),
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = _fitted(spec, fit, identity, generator) | _readout(spec, readout, generator)
    return save_artifact(spec, tensors, folder)


def _fitted(
    spec: TaskSpec, fit: Fit, identity: bool, generator: torch.Generator
) -> dict[TensorName, Tensor]:
    """What is done at the sites."""
    if fit == "none":
        return {}
    shape = (spec.num_layers, len(SITES))
    vector = torch.randn(*shape, spec.hidden_size, generator=generator)
    coefficients = torch.stack([torch.zeros(shape), torch.ones(shape)], dim=-1)
    mask = adapted_mask(spec.num_layers, spec.layers, spec.sites)
    if not identity:
        drawn = torch.rand(*shape, 2, generator=generator) * 0.5 + torch.tensor([0.1, 0.75])
        coefficients[mask] = drawn[mask]
    if fit == "coefficients":
        return {"context_vector": vector, "coefficients": coefficients}
    folded = fold(vector, coefficients)
    moved = torch.rand(vector.shape, generator=generator) * 0.2 - 0.1
    return {"scale": folded.scale + moved * mask[..., None], "shift": folded.shift}


def _readout(
    spec: TaskSpec, readout: ReadoutKind, generator: torch.Generator
) -> dict[TensorName, Tensor]:
    """What is done with the labels' scores."""
    if readout == "none":
        return {}
    labels = len(spec.labels)
    tensors: dict[TensorName, Tensor] = {
        "sharpness": torch.rand(1, generator=generator) + 0.5,
        "bias": torch.randn(labels, generator=generator),
    }
    if readout == "head":
        rows = torch.randn(labels, spec.hidden_size, generator=generator)
        tensors["label_rows"] = rows / spec.hidden_size**0.5
    return tensors
