"""Artifacts of every rung: the round trip, what is absent, and refusals by their messages."""

import pytest
import torch
from safetensors.torch import save as to_safetensors

from ifedicl_serve.contract.artifact import load_artifact, max_vectors_bytes, save_artifact
from tests.ifedicl_serve.factory import (
    HIDDEN,
    LAYERS,
    MODEL,
    NOTHING_ADAPTED,
    edit_task,
    edit_vectors,
    make_artifact,
    make_rung,
    make_spec,
    refusal,
)

RUNGS = {
    "zero-shot": NOTHING_ADAPTED,
    "bias": NOTHING_ADAPTED,
    "head": NOTHING_ADAPTED,
    "coefficients": {},
    "coefficients+bias": {"extent": "tail"},
    "channels": {"extent": "tail"},
    "channels+head": {},
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sst2"


def save_rung(name, folder):
    return make_artifact(folder, rung=name, **RUNGS[name])


@pytest.mark.parametrize("name", RUNGS)
def test_a_task_of_any_rung_is_loaded_as_it_was_saved(folder, name):
    saved = save_rung(name, folder)
    loaded = load_artifact(folder, MODEL, saved.digest)
    expected = make_rung(name, make_spec(**RUNGS[name]))
    assert loaded.spec.rung == name
    assert loaded.spec.extent == RUNGS[name].get("extent", "all")
    assert loaded.tensors.keys() == expected.keys()
    assert all(torch.equal(loaded.tensors[key], value) for key, value in expected.items())


def test_what_is_absent_is_the_identity(folder):
    loaded = save_rung("zero-shot", folder)
    assert loaded.readout is None
    assert loaded.injection.unchanged().all()


def test_channels_stand_above_the_coefficients_they_came_from(folder):
    loaded = save_rung("channels+head", folder)
    assert "coefficients" in loaded.tensors
    assert torch.equal(loaded.injection.scale, loaded.tensors["scale"])
    assert torch.equal(loaded.readout.label_rows, loaded.tensors["label_rows"])
    assert loaded.readout.sharpness == 1.5


def test_a_scale_may_be_one_number_a_site(folder):
    spec = make_spec()
    tensors = make_rung("channels", spec)
    tensors["scale"] = tensors["scale"].mean(dim=-1, keepdim=True)
    assert save_artifact(spec, tensors, folder).injection.scale.shape == (LAYERS, 2, 1)


def test_label_rows_of_another_width_are_refused(folder):
    save_rung("head", folder)
    edit_vectors(folder, label_rows=torch.zeros(2, HIDDEN + 1))
    assert refusal(folder).endswith(
        f"label_rows is F32 (2, {HIDDEN + 1}), expected F32 (2, {HIDDEN})"
    )


@pytest.mark.parametrize("name", ["label_rows", "bias"])
def test_a_readout_for_other_labels_is_refused(folder, name):
    tensor = save_rung("head", folder).tensors[name]
    edit_vectors(folder, **{name: torch.cat([tensor, tensor[:1]])})
    assert f"{name} is F32 (3" in refusal(folder)


@pytest.mark.parametrize("name", ["sharpness", "bias", "label_rows", "scale", "shift"])
def test_a_number_that_is_not_finite_is_refused(folder, name):
    tensor = save_rung("channels+head", folder).tensors[name].clone()
    tensor.view(-1)[-1] = torch.inf
    edit_vectors(folder, **{name: tensor})
    assert refusal(folder).endswith(f"{name} has NaN or infinite values; calibrate again")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (["scale"], "have some of ['scale', 'shift'], expected all or none"),
        (["coefficients"], "have coefficients, but not all ['coefficients', 'context_vector']"),
        (["bias"], "have some of ['bias', 'sharpness'], expected all or none"),
        (["label_rows"], "have label_rows, but not all ['bias', 'sharpness']"),
        (["shift", "scale"], "are not sorted, each once"),
        (["weights"], "tensors.0: Input should be 'bias', 'coefficients'"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(folder, tensors, said):
    save_rung("coefficients", folder)
    edit_task(folder, tensors=tensors)
    assert said in refusal(folder)


@pytest.mark.parametrize("changed", ["scale", "shift"])
def test_a_channel_adapted_but_not_listed_is_refused(folder, changed):
    tensor = save_rung("channels", folder).tensors[changed].clone()
    tensor[0, 0, 0] += 0.5
    edit_vectors(folder, **{changed: tensor})
    assert refusal(folder).endswith(
        "scale and shift outside layers (2, 3) and sites ('attn', 'mlp') are not the identity "
        "(scale 1, shift 0)"
    )


def test_a_task_that_adapts_nothing_must_say_so(folder):
    save_rung("head", folder)
    edit_task(folder, layers=[3], sites=["mlp"])
    assert refusal(folder).endswith(
        "none of its tensors ('bias', 'label_rows', 'sharpness') adapts a site, so it must list "
        "no layers and no sites, and extent 'all'"
    )


def test_the_limit_of_a_file_is_that_of_the_largest_rung():
    largest = {
        "bias": torch.zeros(1000),
        "coefficients": torch.zeros(32, 2, 2),
        "context_vector": torch.zeros(32, 2, 4096),
        "label_rows": torch.zeros(1000, 4096),
        "scale": torch.zeros(32, 2, 4096),
        "sharpness": torch.zeros(1),
        "shift": torch.zeros(32, 2, 4096),
    }
    size = len(to_safetensors(largest))
    assert size <= max_vectors_bytes(32, 4096) <= size + (1 << 16)
    assert max_vectors_bytes(32, 4096, labels=2) < 4 << 20
