"""Tasks with random vectors: enough to measure and test an engine, useless to classify."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig

from ifedicl_serve.contract.artifact import Artifact, save_artifact
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import SITES, adapted_mask
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import CalibrationRecord, Label, TaskSpec

PROMPT = PromptTemplate.of("Text: {text}\nTopic:")
LABELS = ("card", "cash", "transfer", "exchange")


def random_task(
    model: Path,
    folder: Path,
    seed: int,
    layers: Sequence[int] | None = None,
    labels: Sequence[str] = LABELS,
    identity: bool = False,
) -> Artifact:
    """Write a task with vectors and coefficients strong enough to change predictions.

    `layers` None adapts all; `identity` keeps lambda 0 and beta 1 everywhere.
    """
    config = AutoConfig.from_pretrained(model)
    spec = TaskSpec(
        name=folder.name,
        prompt=PROMPT,
        labels=tuple(Label(name=label, verbalization=label) for label in labels),
        layers=tuple(range(config.num_hidden_layers) if layers is None else layers),
        sites=SITES,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        model=ModelIdentity.of(str(model)),
        calibration=CalibrationRecord(loss="restricted", rounds=1, seed=seed, client_sizes=(1,)),
    )
    generator = torch.Generator().manual_seed(seed)
    shape = (spec.num_layers, len(SITES))
    vector = torch.randn(*shape, spec.hidden_size, generator=generator)
    coefficients = torch.stack([torch.zeros(shape), torch.ones(shape)], dim=-1)
    if not identity:
        drawn = torch.rand(*shape, 2, generator=generator) * 0.5 + torch.tensor([0.1, 0.75])
        mask = adapted_mask(spec.num_layers, spec.layers, spec.sites)
        coefficients[mask] = drawn[mask]
    return save_artifact(spec, {"context_vector": vector, "coefficients": coefficients}, folder)
