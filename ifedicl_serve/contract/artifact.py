"""A calibrated task on disk: `task.json` and `vectors.safetensors` in one folder.

A signature may lie beside them (`signing`), which is no part of the content.

`task.json` carries the SHA-256 of `vectors.safetensors`, so the SHA-256 of `task.json` (the
*digest*) names the content of both files: equal content, equal digest. Nothing volatile
(times, host names) goes into either. Folders are written whole or not at all, and an
artifact that fails any check is refused with ArtifactError.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, deserialize
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import (
    BETA,
    LAMBDA,
    SITES,
    Injection,
    TensorName,
    adapted_mask,
)
from ifedicl_serve.contract.readout import Readout
from ifedicl_serve.contract.schema_1 import upgraded
from ifedicl_serve.contract.signing import TrustedKeys
from ifedicl_serve.contract.spec import MAX_LABELS, SCHEMA_VERSION, TaskSpec
from ifedicl_serve.errors import ArtifactError, PromptError
from ifedicl_serve.files.reading import read_file
from ifedicl_serve.files.writing import write_folder

TASK_FILE, VECTORS_FILE = "task.json", "vectors.safetensors"
MAX_TASK_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Artifact:
    """A validated task: its spec, its tensors (float32) by name, and the digest that names them.

    `context_vector` is [layers, 2, hidden], `coefficients` [layers, 2, 2].
    """

    spec: TaskSpec
    tensors: Mapping[TensorName, Tensor]
    digest: str

    @property
    def context_vector(self) -> Tensor:
        return self.tensors["context_vector"]

    @property
    def coefficients(self) -> Tensor:
        return self.tensors["coefficients"]

    @cached_property
    def injection(self) -> Injection:
        """What is done at the sites; the identity if the task adapts none."""
        injection = Injection.of(self.tensors)
        return injection or Injection.identity(self.spec.num_layers, self.spec.hidden_size)

    @cached_property
    def readout(self) -> Readout | None:
        """What is done with the labels' scores."""
        return Readout.of(self.tensors)


def save_artifact(spec: TaskSpec, tensors: Mapping[TensorName, Tensor], folder: Path) -> Artifact:
    """Validate and write a task to `folder`, replacing what is there, and return it as loaded.

    A reader never sees half of it, and a signature of what was there goes with it. Raises
    ArtifactError if `folder` holds anything but a task.
    """
    refuse_occupied(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return write_folder(folder, artifact_files(spec, tensors), load_artifact)


def artifact_files(spec: TaskSpec, tensors: Mapping[TensorName, Tensor]) -> dict[str, bytes]:
    """The content of both files, by name."""
    vectors = save_safetensors(
        {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    )
    digest = hashlib.sha256(vectors).hexdigest()
    held = {"tensors": tuple(sorted(tensors)), "vectors_sha256": digest}
    return {TASK_FILE: task_file(spec.model_copy(update=held)), VECTORS_FILE: vectors}


def task_file(spec: TaskSpec) -> bytes:
    """The content of `task.json`."""
    text = json.dumps(spec.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode()


def refuse_occupied(folder: Path) -> None:
    """Raise ArtifactError unless `folder` is free, empty or a task: what is there is replaced."""
    if not folder.exists() or (folder / TASK_FILE).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise ArtifactError(
            f"{folder} exists and is no task, so it is not replaced; choose a folder for the "
            f"task alone, e.g. {folder / 'my-task'}"
        )


def read_spec(folder: Path) -> tuple[TaskSpec, str]:
    """Read and validate `task.json`; return it with the artifact's digest. Reads no tensor."""
    path = folder / TASK_FILE
    try:
        raw = read_file(path, MAX_TASK_FILE_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot read {TASK_FILE}: {error.strerror}") from error
    if len(raw) > MAX_TASK_FILE_BYTES:
        raise ArtifactError(f"{path}: larger than {MAX_TASK_FILE_BYTES} bytes; not a task")
    try:
        spec = TaskSpec.model_validate_json(_newest_schema(path, raw))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'task'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise ArtifactError(f"{path}: {problems}") from error
    except PromptError as error:
        raise ArtifactError(f"{path}: prompt.template: {error}") from error
    return spec, hashlib.sha256(raw).hexdigest()


def load_artifact(
    folder: Path,
    model: ModelIdentity | None = None,
    digest: str | None = None,
    trusted: TrustedKeys | None = None,
) -> Artifact:
    """Load a task and check everything about it.

    If given, `model` is the base model it must have been calibrated on, `digest` the content it
    must have, and `trusted` the keys of which one must have signed it. Raises ArtifactError.
    """
    spec, seen_digest = read_spec(folder)
    if digest is not None and seen_digest != digest:
        raise ArtifactError(
            f"{folder}: digest is {seen_digest[:16]}, expected {digest[:16]}; the artifact was "
            "replaced, ask for the new one"
        )
    if trusted is not None:
        trusted.signer_of(folder, seen_digest)
    refuse_other_model(folder, spec, model)
    tensors = _read_tensors(folder / VECTORS_FILE, spec)
    artifact = Artifact(spec, tensors, seen_digest)
    _refuse_touched_layers(folder, artifact)
    _refuse_overflow(folder, artifact)
    return artifact


def refuse_other_model(folder: Path, spec: TaskSpec, model: ModelIdentity | None) -> None:
    """Raise ArtifactError unless the task was calibrated on `model` (None accepts any)."""
    if model is None:
        return
    if spec.model.version < model.version:
        raise ArtifactError(
            f"{folder}: an older release wrote which model it was calibrated on, and did not see "
            f"all that decides a text's tokens; if that was {model.name!r}, renew it: ifedicl "
            f"renew --model MODEL {folder}"
        )
    mismatch = spec.model.mismatch(model)
    if mismatch:
        raise ArtifactError(
            f"{folder}: calibrated on another model ({mismatch}); serve that model or "
            "calibrate the task on this one"
        )


def max_vectors_bytes(num_layers: int, hidden_size: int, labels: int = MAX_LABELS) -> int:
    """More than `vectors.safetensors` of such a model, with so many labels, ever has."""
    shapes = _tensor_shapes(num_layers, hidden_size, labels).values()
    header = 1 << 16  # of safetensors: far below 64 KiB for a handful of tensors
    return 4 * sum(torch.Size(shape).numel() for shape in shapes) + header


def _tensor_shapes(
    num_layers: int, hidden_size: int, labels: int
) -> dict[TensorName, tuple[int, ...]]:
    sites = (num_layers, len(SITES))
    return {
        "bias": (labels,),
        "coefficients": (*sites, 2),
        "context_vector": (*sites, hidden_size),
        "label_rows": (labels, hidden_size),
        "scale": (*sites, hidden_size),  # or, one number a site, (*sites, 1)
        "sharpness": (1,),
        "shift": (*sites, hidden_size),
    }


def _newest_schema(path: Path, raw: bytes) -> bytes | str:
    """`task.json` as this release writes it."""
    try:
        task = json.loads(raw)
        version = task.get("schema_version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a JSON object; the file is damaged") from error
    if version == 1:
        return json.dumps(upgraded(task))
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema version {version!r}, this release reads 1 and {SCHEMA_VERSION}; "
            "calibrate the task again or install a matching ifedicl-serve"
        )
    return raw


def _read_tensors(path: Path, spec: TaskSpec) -> dict[TensorName, Tensor]:
    model = spec.num_layers, spec.hidden_size, len(spec.labels)
    shapes = {name: shape for name, shape in _tensor_shapes(*model).items() if name in spec.tensors}
    try:
        raw = read_file(path, max_vectors_bytes(*model))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror}") from error
    if hashlib.sha256(raw).hexdigest() != spec.vectors_sha256:
        raise ArtifactError(
            f"{path}: content does not match the SHA-256 in {TASK_FILE}; the file is damaged or "
            "from another task, copy the artifact again"
        )
    tensors = _stored(path, raw, shapes)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{path}: {name} has NaN or infinite values; calibrate again")
    return tensors


def _stored(
    path: Path, raw: bytes, shapes: dict[TensorName, tuple[int, ...]]
) -> dict[TensorName, Tensor]:
    """Each tensor, float32, after checking the header: torch sees nothing that is not expected, as
    a dtype or shape of somebody's making can be too much for it."""
    try:
        stored = dict(deserialize(raw))
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not a safetensors file: {error}") from error
    if stored.keys() != shapes.keys():
        raise ArtifactError(f"{path}: holds {sorted(stored)}, expected {sorted(shapes)}")
    tensors = {}
    for name, shape in shapes.items():
        dtype, seen = stored[name]["dtype"], tuple(stored[name]["shape"])
        one_a_site = name == "scale" and seen == (*shape[:-1], 1)
        if dtype != "F32" or not (seen == shape or one_a_site):
            raise ArtifactError(f"{path}: {name} is {dtype} {seen}, expected F32 {shape}")
        tensors[name] = torch.frombuffer(stored[name]["data"], dtype=torch.float32).reshape(seen)
    return tensors


def _refuse_touched_layers(folder: Path, artifact: Artifact) -> None:
    """Sites that are not listed are untouched, and none is listed if no tensor adapts one."""
    spec = artifact.spec
    if spec.fit == "none" and (spec.layers, spec.sites, spec.extent) != ((), (), "all"):
        raise ArtifactError(
            f"{folder}: none of its tensors {spec.tensors} adapts a site, so it must list no "
            "layers and no sites, and extent 'all'"
        )
    untouched = ~adapted_mask(spec.num_layers, spec.layers, spec.sites)
    outside = f"outside layers {spec.layers} and sites {spec.sites} are not the identity"
    coefficients = artifact.tensors.get("coefficients")
    if coefficients is not None:
        identity = (coefficients[..., LAMBDA] == 0) & (coefficients[..., BETA] == 1)
        if not identity[untouched].all():
            raise ArtifactError(f"{folder}: coefficients {outside} (lambda 0, beta 1)")
    injection = Injection.of(artifact.tensors)
    if injection is not None and not injection.unchanged()[untouched].all():
        raise ArtifactError(f"{folder}: scale and shift {outside} (scale 1, shift 0)")


def _refuse_overflow(folder: Path, artifact: Artifact) -> None:
    """Each number may be finite and their product not: it would be served as NaN."""
    injection = Injection.of(artifact.tensors)
    if injection is not None and not injection.shift.isfinite().all():
        raise ArtifactError(
            f"{folder}: lambda times the context vector is more than float32 holds; calibrate again"
        )
