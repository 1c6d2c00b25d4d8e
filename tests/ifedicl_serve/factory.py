"""Artifacts for a base model that does not exist, and ways to damage them."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors

from ifedicl_serve.contract.artifact import (
    TASK_FILE,
    VECTORS_FILE,
    load_artifact,
    save_artifact,
)
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import SITES, adapted_mask, initial_coefficients
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import CalibrationRecord, Label, TaskSpec
from ifedicl_serve.errors import ArtifactError

MODEL = ModelIdentity(
    name="base",
    architecture="LlamaForCausalLM",
    config_digest="c" * 64,
    tokenizer_digest="d" * 64,
    weights_digest="e" * 64,
)
LAYERS, HIDDEN = 4, 8
NOTHING_ADAPTED = {"layers": (), "sites": ()}  # the spec of a task with a readout alone


def make_spec(name="sst2", labels=("negative", "positive"), **changes):
    """A task on MODEL that adapts the last two layers, verbalising each label by its name."""
    fields = {
        "name": name,
        "prompt": PromptTemplate.of("Review: {text}\nSentiment:"),
        "labels": tuple(Label(name=label, verbalization=label) for label in labels),
        "layers": (2, 3),
        "sites": SITES,
        "num_layers": LAYERS,
        "hidden_size": HIDDEN,
        "model": MODEL,
        "calibration": CalibrationRecord(
            loss="restricted", rounds=5, seed=0, client_sizes=(8, 8), metrics={"accuracy": 0.75}
        ),
    }
    return TaskSpec(**(fields | changes))


def make_vectors(spec, seed=0):
    """A context vector and coefficients that are random where the task adapts."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(spec.num_layers, len(SITES), spec.hidden_size, generator=generator)
    coefficients = initial_coefficients(spec.num_layers, spec.layers, spec.sites)
    mask = adapted_mask(spec.num_layers, spec.layers, spec.sites)
    coefficients[mask] += torch.randn(coefficients[mask].shape, generator=generator) / 10
    return {"context_vector": vector, "coefficients": coefficients}


def make_rung(name, spec, seed=0):
    """Random tensors of a rung by its name, such as "channels+head"."""
    generator = torch.Generator().manual_seed(seed)
    tensors = make_vectors(spec, seed) if spec.layers else {}
    if "channels" in name:
        sites = (spec.num_layers, len(SITES), spec.hidden_size)
        scale = torch.rand(sites, generator=generator) + 0.5
        shift = torch.randn(sites, generator=generator)
        untouched = ~adapted_mask(spec.num_layers, spec.layers, spec.sites)
        scale[untouched], shift[untouched] = 1, 0
        tensors |= {"scale": scale, "shift": shift}
    if name.endswith(("bias", "head")):
        bias = torch.randn(len(spec.labels), generator=generator)
        tensors |= {"sharpness": torch.tensor([1.5]), "bias": bias}
    if name.endswith("head"):
        shape = len(spec.labels), spec.hidden_size
        tensors["label_rows"] = torch.randn(shape, generator=generator)
    return tensors


def make_artifact(folder, seed=0, rung="coefficients", **changes):
    """Write a task of a rung to `folder`; `changes` are those of make_spec."""
    spec = make_spec(**changes)
    return save_artifact(spec, make_rung(rung, spec, seed), folder)


def refusal(folder):
    """Why an artifact is not loaded."""
    with pytest.raises(ArtifactError) as caught:
        load_artifact(folder)
    return str(caught.value)


def edit_task(folder, **changes):
    """Overwrite fields of a written task.json, past all checks."""
    path = folder / TASK_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_vectors(folder, raw):
    """Overwrite vectors.safetensors and make task.json vouch for it."""
    (folder / VECTORS_FILE).write_bytes(raw)
    edit_task(folder, vectors_sha256=hashlib.sha256(raw).hexdigest())


def edit_vectors(folder, **tensors):
    """Overwrite or add tensors of a written artifact, and make task.json vouch for them."""
    replace_vectors(folder, to_safetensors(load_file(folder / VECTORS_FILE) | tensors))
