"""The files of a checkpoint, a local folder or a hub name, found as transformers finds them.

What is downloaded lies in `cache_dir`, or in Hugging Face's own cache.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, snapshot_download
from transformers.utils.hub import cached_file

from ifedicl_serve.errors import ModelError


def file_names(model: str, cache_dir: str | None = None) -> set[str]:
    """Paths of all files below the checkpoint's folder: of a hub model those that the hub lists,
    downloaded or not, or offline those that were downloaded. Raises ModelError."""
    folder = Path(model)
    if not folder.is_dir():
        try:
            return set(HfApi().list_repo_files(model))
        except (OSError, ValueError, httpx.HTTPError):
            folder = _downloaded(model, cache_dir)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def find(model: str, name: str, cache_dir: str | None = None) -> Path | None:
    """Where a file of the checkpoint lies, downloaded if need be; None if it has none of that name.
    Raises ModelError."""
    try:
        found = cached_file(
            model, name, cache_dir=cache_dir, _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        raise ModelError(f"cannot read {name} of model {model!r}: {error}") from error
    return Path(found) if found else None


def read_json(model: str, name: str, cache_dir: str | None = None) -> dict[str, Any]:
    """A JSON object of the checkpoint. Raises ModelError if it is missing or another thing."""
    path = find(model, name, cache_dir)
    if path is None:
        raise ModelError(
            f"{model} has no {name}; expected a Hugging Face checkpoint folder or hub name"
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object; the file is damaged, download it again")
    return value


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _downloaded(model: str, cache_dir: str | None) -> Path:
    try:
        return Path(snapshot_download(model, cache_dir=cache_dir, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot find model {model!r}: {error}; give a Hugging Face checkpoint folder or hub "
            "name"
        ) from error
