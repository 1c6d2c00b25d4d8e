"""Artifacts on disk: the round trip, atomic writes, and every refusal by its message."""

import json
import os

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save as to_safetensors

from ifedicl_serve.contract.artifact import (
    MAX_TASK_FILE_BYTES,
    TASK_FILE,
    VECTORS_FILE,
    load_artifact,
    read_spec,
    save_artifact,
)
from ifedicl_serve.contract.injection import LAMBDA
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.errors import ArtifactError
from tests.ifedicl_serve.factory import (
    HIDDEN,
    LAYERS,
    MODEL,
    edit_task,
    edit_vectors,
    make_artifact,
    make_spec,
    make_vectors,
    replace_vectors,
)


@pytest.fixture
def folder(tmp_path):
    make_artifact(tmp_path / "sst2")
    return tmp_path / "sst2"


def refusal(folder, **expected):
    with pytest.raises(ArtifactError) as caught:
        load_artifact(folder, **expected)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# -- the round trip


def test_what_was_saved_is_loaded(tmp_path):
    spec = make_spec()
    tensors = make_vectors(spec)
    saved = save_artifact(spec, tensors, tmp_path / "sst2")
    loaded = load_artifact(tmp_path / "sst2", MODEL, saved.digest)
    assert torch.equal(loaded.context_vector, tensors["context_vector"])
    assert torch.equal(loaded.coefficients, tensors["coefficients"])
    assert loaded.spec == saved.spec
    held = {"tensors": tuple(sorted(tensors)), "vectors_sha256": loaded.spec.vectors_sha256}
    assert loaded.spec == spec.model_copy(update=held)
    assert loaded.digest == saved.digest


def test_low_precision_and_transposed_tensors_are_stored_as_float32(tmp_path):
    spec = make_spec()
    tensors = make_vectors(spec)
    half = tensors["context_vector"].bfloat16().transpose(0, 2).contiguous().transpose(0, 2)
    tensors["context_vector"] = half.requires_grad_()
    tensors["coefficients"] = tensors["coefficients"].double()
    loaded = save_artifact(spec, tensors, tmp_path / "sst2")
    assert torch.equal(loaded.context_vector, half.float())
    assert loaded.coefficients.dtype == torch.float32


def test_an_artifact_from_before_round_losses_were_recorded_is_loaded(tmp_path):
    make_artifact(tmp_path / "sst2")
    path = tmp_path / "sst2" / TASK_FILE
    record = json.loads(path.read_text())["calibration"]
    del record["round_losses"]
    edit_task(tmp_path / "sst2", calibration=record)
    assert load_artifact(tmp_path / "sst2").spec.calibration.round_losses == ()


def test_equal_content_has_an_equal_digest(tmp_path):
    digests = {make_artifact(tmp_path / name).digest for name in ("one", "two")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"name": "other"},
        {"labels": ("positive", "negative")},
        {"prompt": PromptTemplate.of("Review: {text}\nMood:")},
        {"prompt": PromptTemplate.of("Review: {text}\nSentiment:", separator="\n")},
        {"layers": (3,)},
        {"model": MODEL.model_copy(update={"config_digest": "e" * 64})},
    ],
    ids=["vectors", "name", "label order", "template", "separator", "layers", "model"],
)
def test_the_digest_changes_with_any_content(tmp_path, changes):
    digest = make_artifact(tmp_path / "one").digest
    assert make_artifact(tmp_path / "two", **changes).digest != digest


def test_the_digest_is_read_without_the_tensors(folder):
    digest = load_artifact(folder).digest
    (folder / VECTORS_FILE).unlink()
    assert read_spec(folder)[1] == digest


# -- atomic writes


def test_an_artifact_is_replaced_whole(tmp_path):
    make_artifact(tmp_path / "sst2", seed=0)
    (tmp_path / "sst2" / "stray.txt").write_text("left by hand")
    new = make_artifact(tmp_path / "sst2", seed=1)
    assert load_artifact(tmp_path / "sst2").digest == new.digest
    assert sorted(os.listdir(tmp_path / "sst2")) == [TASK_FILE, VECTORS_FILE]


def test_missing_parents_are_created(tmp_path):
    digest = make_artifact(tmp_path / "a" / "b" / "sst2").digest
    assert load_artifact(tmp_path / "a" / "b" / "sst2").digest == digest


def test_a_refused_write_leaves_the_old_artifact_and_no_temporary_folder(folder):
    digest = load_artifact(folder).digest
    spec = make_spec()
    tensors = make_vectors(spec)
    tensors["context_vector"][0, 0, 0] = torch.nan
    with pytest.raises(ArtifactError, match="context_vector has NaN or infinite values"):
        save_artifact(spec, tensors, folder)
    assert load_artifact(folder).digest == digest
    assert os.listdir(folder.parent) == ["sst2"]


def test_a_finished_write_leaves_no_temporary_folder(folder):
    assert os.listdir(folder.parent) == ["sst2"]


def test_other_users_may_read_the_artifact(folder):
    assert folder.stat().st_mode & 0o777 == 0o755


# -- refusals of task.json


@pytest.mark.parametrize("name", [TASK_FILE, VECTORS_FILE])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    message = refusal(folder)
    assert name in message
    assert message.endswith("No such file or directory")


def test_a_folder_in_place_of_a_file_is_refused(folder):
    (folder / TASK_FILE).unlink()
    (folder / TASK_FILE).mkdir()
    assert refusal(folder).endswith("cannot read task.json: Is a directory")


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b'"task"', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "string", "not utf-8", "too deep"],
)
def test_what_is_not_a_json_object_is_refused(folder, raw):
    (folder / TASK_FILE).write_bytes(raw)
    assert refusal(folder).endswith("not a JSON object; the file is damaged")


@pytest.mark.parametrize("version", [3, 0, "2", None])
def test_another_schema_version_is_refused(folder, version):
    edit_task(folder, schema_version=version)
    assert refusal(folder).endswith(
        f"schema version {version!r}, this release reads 1 and 2; calibrate the task again or "
        "install a matching ifedicl-serve"
    )


def test_an_oversize_task_file_is_refused(folder):
    edit_task(folder, padding=" " * MAX_TASK_FILE_BYTES)
    assert refusal(folder).endswith(f"larger than {MAX_TASK_FILE_BYTES} bytes; not a task")


def test_an_unknown_field_is_refused(folder):
    edit_task(folder, temperature=0.7)
    assert "temperature: Extra inputs are not permitted" in refusal(folder)


def test_a_missing_field_is_refused(folder):
    task = json.loads((folder / TASK_FILE).read_text())
    del task["labels"]
    (folder / TASK_FILE).write_text(json.dumps(task))
    assert "labels: Field required" in refusal(folder)


def test_every_problem_of_a_task_is_named(folder):
    edit_task(folder, sites=["residual"], num_layers=0)
    message = refusal(folder)
    assert "sites.0: Input should be 'attn' or 'mlp'" in message
    assert "num_layers: Input should be greater than or equal to 1" in message


@pytest.mark.parametrize("name", ["../sst2", "a/b", "..", ".hidden", "", "a b", "x" * 129, "é"])
def test_a_name_that_could_leave_the_folder_is_refused(folder, name):
    edit_task(folder, name=name)
    assert "name: String should match pattern" in refusal(folder)


def test_repeated_label_names_are_refused(folder):
    label = {"name": "good", "verbalization": "good"}
    edit_task(folder, labels=[label, label | {"verbalization": "fine"}])
    assert "label names repeat: ['good', 'good']" in refusal(folder)


def test_a_single_label_is_refused(folder):
    edit_task(folder, labels=[{"name": "good", "verbalization": "good"}])
    assert "labels: Tuple should have at least 2 items" in refusal(folder)


def test_a_verbalization_with_outer_space_is_refused(folder):
    labels = [{"name": "good", "verbalization": " good"}, {"name": "bad", "verbalization": "bad"}]
    edit_task(folder, labels=labels)
    assert "verbalization ' good' has outer white space; remove it" in refusal(folder)


def test_a_layer_out_of_range_is_refused(folder):
    edit_task(folder, layers=[LAYERS])
    assert f"layers ({LAYERS},) exceed the model's {LAYERS} layers" in refusal(folder)


def test_a_negative_layer_is_refused(folder):
    edit_task(folder, layers=[-1])
    assert "layers.0: Input should be greater than or equal to 0" in refusal(folder)


@pytest.mark.parametrize("end", [" ", "\n", "\t"])
def test_a_template_that_ends_in_white_space_before_a_space_is_refused(folder, end):
    edit_task(folder, prompt={"head": "Review: ", "tail": "\nSentiment:" + end})
    assert "ends in white space, but the label is appended after ' '" in refusal(folder)


def test_white_space_is_meant_where_a_label_follows_directly(folder):
    prompt = {"head": "<user>", "tail": "</user>\n<assistant>\n", "label_prefix": ""}
    edit_task(folder, prompt=prompt)
    rendered = load_artifact(folder).spec.prompt.render("hi")
    assert str(rendered) == "<user>hi</user>\n<assistant>\n"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_refused(folder, number):
    """JSON has no such number, so one would make `GET /v1/tasks` fail for every task."""
    record = json.loads((folder / TASK_FILE).read_text())["calibration"]
    edit_task(folder, calibration=record | {"metrics": {"loss": number}})
    assert "calibration.metrics.loss: Input should be a finite number" in refusal(folder)


def test_a_spec_is_checked_where_it_is_born():
    with pytest.raises(ValidationError, match="exceed the model's 4 layers"):
        make_spec(layers=(4,))


# -- refusals of the model and the digest


@pytest.mark.parametrize(
    "field", ["architecture", "config_digest", "tokenizer_digest", "weights_digest"]
)
def test_an_artifact_of_another_model_is_refused(folder, field):
    other = MODEL.model_copy(update={field: "other", "name": "served"})
    message = refusal(folder, model=other)
    assert f"calibrated on another model ({field.replace('_', ' ')} " in message
    assert "of 'base', not other of 'served')" in message
    assert message.endswith("serve that model or calibrate the task on this one")


def test_a_replaced_artifact_is_refused(folder):
    old = load_artifact(folder).digest
    new = make_artifact(folder, seed=1).digest
    assert refusal(folder, digest=old).endswith(
        f"digest is {new[:16]}, expected {old[:16]}; the artifact was replaced, ask for the new one"
    )


# -- refusals of vectors.safetensors


def test_vectors_of_another_task_are_refused(folder, tmp_path):
    make_artifact(tmp_path / "other", seed=1)
    (tmp_path / "other" / VECTORS_FILE).rename(folder / VECTORS_FILE)
    assert "content does not match the SHA-256 in task.json" in refusal(folder)


@pytest.mark.parametrize("size", [-1, +1])
def test_vectors_cut_short_or_appended_to_are_refused(folder, size):
    raw = (folder / VECTORS_FILE).read_bytes()
    (folder / VECTORS_FILE).write_bytes(raw[:size] if size < 0 else raw + b"\0")
    assert "content does not match the SHA-256 in task.json" in refusal(folder)


def test_vectors_that_are_no_safetensors_are_refused(folder):
    replace_vectors(folder, b"not a safetensors file")
    assert "not a safetensors file: " in refusal(folder)


@pytest.mark.parametrize("name", ["context_vector", "coefficients"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_is_refused(folder, name, value):
    tensor = getattr(load_artifact(folder), name).clone()
    tensor[-1, 0, 0] = value
    edit_vectors(folder, **{name: tensor})
    assert refusal(folder).endswith(f"{name} has NaN or infinite values; calibrate again")


def test_numbers_whose_product_overflows_are_refused(folder):
    artifact = load_artifact(folder)
    vector, coefficients = artifact.context_vector.clone(), artifact.coefficients.clone()
    vector[-1, 0, 0], coefficients[-1, 0, LAMBDA] = 1e30, -1e30
    edit_vectors(folder, context_vector=vector, coefficients=coefficients)
    assert refusal(folder) == (
        f"{folder}: lambda times the context vector is more than float32 holds; calibrate again"
    )


def test_a_wrong_shape_is_refused(folder):
    edit_vectors(folder, context_vector=torch.zeros(LAYERS, 2, HIDDEN + 1))
    assert refusal(folder).endswith(
        f"context_vector is F32 ({LAYERS}, 2, {HIDDEN + 1}), expected F32 ({LAYERS}, 2, {HIDDEN})"
    )


def test_a_wrong_dtype_is_refused(folder):
    edit_vectors(folder, coefficients=torch.zeros(LAYERS, 2, 2, dtype=torch.float16))
    assert refusal(folder).endswith(
        f"coefficients is F16 ({LAYERS}, 2, 2), expected F32 ({LAYERS}, 2, 2)"
    )


def test_an_extra_tensor_is_refused(folder):
    edit_vectors(folder, bias=torch.zeros(1))
    assert refusal(folder).endswith(
        "holds ['bias', 'coefficients', 'context_vector'], expected "
        "['coefficients', 'context_vector']"
    )


def test_a_missing_tensor_is_refused(folder):
    replace_vectors(folder, to_safetensors({"coefficients": load_artifact(folder).coefficients}))
    assert "holds ['coefficients'], expected" in refusal(folder)


@pytest.mark.parametrize("changed", [(0, 0, 0), (1, 1, 1)], ids=["lambda", "beta"])
def test_a_layer_adapted_but_not_listed_is_refused(folder, changed):
    coefficients = load_artifact(folder).coefficients.clone()
    coefficients[changed] += 0.5
    edit_vectors(folder, coefficients=coefficients)
    assert refusal(folder).endswith(
        "coefficients outside layers (2, 3) and sites ('attn', 'mlp') are not the identity "
        "(lambda 0, beta 1)"
    )


def test_a_site_adapted_but_not_listed_is_refused(folder):
    edit_task(folder, sites=["attn"])
    assert "coefficients outside layers (2, 3) and sites ('attn',)" in refusal(folder)


def test_a_folder_with_anything_but_a_task_is_not_replaced(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="exists and is no task"):
        make_artifact(tmp_path / "project")
    assert (tmp_path / "project" / "thesis.tex").read_text() == "years of work"
