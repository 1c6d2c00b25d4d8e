"""A calibrated task on disk: `task.json` and `vectors.safetensors` in one folder.

A signature may lie beside them (`signing`), which is no part of the content.

`task.json` carries the SHA-256 of `vectors.safetensors`, so the SHA-256 of `task.json` (the
*digest*) names the content of both files: equal content, equal digest. Nothing volatile
(times, host names) goes into either. Folders are written whole or not at all, and an
artifact that fails any check is refused with ArtifactError.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, deserialize
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.injection import BETA, LAMBDA, SITES, adapted_mask, fold
from ifedicl_serve.contract.signing import TrustedKeys
from ifedicl_serve.contract.spec import SCHEMA_VERSION, TaskSpec
from ifedicl_serve.errors import ArtifactError
from ifedicl_serve.files.reading import read_file
from ifedicl_serve.files.writing import write_folder

TASK_FILE, VECTORS_FILE = "task.json", "vectors.safetensors"
MAX_TASK_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Artifact:
    """A validated task: its spec, context vector [layers, 2, hidden] and coefficients
    [layers, 2, 2], both float32, and the digest that names them."""

    spec: TaskSpec
    context_vector: Tensor
    coefficients: Tensor
    digest: str


def save_artifact(
    spec: TaskSpec, context_vector: Tensor, coefficients: Tensor, folder: Path
) -> Artifact:
    """Validate and write a task to `folder`, replacing what is there, and return it as loaded.

    A reader never sees half of it, and a signature of what was there goes with it. Raises
    ArtifactError if `folder` holds anything but a task.
    """
    refuse_occupied(folder)
    vectors = save_safetensors(
        {
            "context_vector": context_vector.detach().float().cpu().contiguous(),
            "coefficients": coefficients.detach().float().cpu().contiguous(),
        }
    )
    spec = spec.model_copy(update={"vectors_sha256": hashlib.sha256(vectors).hexdigest()})
    text = json.dumps(spec.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    files = {TASK_FILE: (text + "\n").encode(), VECTORS_FILE: vectors}
    return write_folder(folder, files, load_artifact)


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
    version = _schema_version(path, raw)
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema version {version!r}, this release reads {SCHEMA_VERSION}; "
            "calibrate the task again or install a matching ifedicl-serve"
        )
    try:
        spec = TaskSpec.model_validate_json(raw)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'task'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise ArtifactError(f"{path}: {problems}") from error
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
    artifact = Artifact(spec, tensors["context_vector"], tensors["coefficients"], seen_digest)
    _refuse_touched_layers(folder, artifact)
    _refuse_overflow(folder, artifact)
    return artifact


def refuse_other_model(folder: Path, spec: TaskSpec, model: ModelIdentity | None) -> None:
    """Raise ArtifactError unless the task was calibrated on `model` (None accepts any)."""
    mismatch = model and spec.model.mismatch(model)
    if mismatch:
        raise ArtifactError(
            f"{folder}: calibrated on another model ({mismatch}); serve that model or "
            "calibrate the task on this one"
        )


def max_vectors_bytes(num_layers: int, hidden_size: int) -> int:
    """More than `vectors.safetensors` of such a model ever has."""
    shapes = _tensor_shapes(num_layers, hidden_size).values()
    header = 1 << 16  # of safetensors: far below 64 KiB for two tensors
    return 4 * sum(torch.Size(shape).numel() for shape in shapes) + header


def _tensor_shapes(num_layers: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    return {
        "context_vector": (num_layers, len(SITES), hidden_size),
        "coefficients": (num_layers, len(SITES), 2),
    }


def _schema_version(path: Path, raw: bytes) -> Any:
    try:
        return json.loads(raw).get("schema_version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a JSON object; the file is damaged") from error


def _read_tensors(path: Path, spec: TaskSpec) -> dict[str, Tensor]:
    shapes = _tensor_shapes(spec.num_layers, spec.hidden_size)
    try:
        raw = read_file(path, max_vectors_bytes(spec.num_layers, spec.hidden_size))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror}") from error
    if hashlib.sha256(raw).hexdigest() != spec.vectors_sha256:
        raise ArtifactError(
            f"{path}: content does not match the SHA-256 in {TASK_FILE}; the file is damaged or "
            "from another task, copy the artifact again"
        )
    tensors = {}
    for name, data in _stored(path, raw, shapes).items():
        tensor = torch.frombuffer(data, dtype=torch.float32).reshape(shapes[name])
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{path}: {name} has NaN or infinite values; calibrate again")
        tensors[name] = tensor
    return tensors


def _stored(path: Path, raw: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, bytearray]:
    """The float32 numbers of each tensor, after checking the header: torch sees nothing that is
    not expected, as a dtype or shape of somebody's making can be too much for it."""
    try:
        stored = dict(deserialize(raw))
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not a safetensors file: {error}") from error
    if stored.keys() != shapes.keys():
        raise ArtifactError(f"{path}: holds {sorted(stored)}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        seen = stored[name]["dtype"], tuple(stored[name]["shape"])
        if seen != ("F32", shape):
            raise ArtifactError(f"{path}: {name} is {seen[0]} {seen[1]}, expected F32 {shape}")
    return {name: tensor["data"] for name, tensor in stored.items()}


def _refuse_touched_layers(folder: Path, artifact: Artifact) -> None:
    spec, coefficients = artifact.spec, artifact.coefficients
    untouched = ~adapted_mask(spec.num_layers, spec.layers, spec.sites)
    identity = (coefficients[..., LAMBDA] == 0) & (coefficients[..., BETA] == 1)
    if not identity[untouched].all():
        raise ArtifactError(
            f"{folder}: coefficients outside layers {spec.layers} and sites {spec.sites} are not "
            "the identity (lambda 0, beta 1)"
        )


def _refuse_overflow(folder: Path, artifact: Artifact) -> None:
    """Each number may be finite and their product not: it would be served as NaN."""
    if not fold(artifact.context_vector, artifact.coefficients).shift.isfinite().all():
        raise ArtifactError(
            f"{folder}: lambda times the context vector is more than float32 holds; calibrate again"
        )
