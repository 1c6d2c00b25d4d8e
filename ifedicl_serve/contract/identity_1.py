"""A model's identity as releases before made it: of the tokenizer's main file alone.

It did not see what a class and its settings do to a text, so what has it is not served; `ifedicl
renew` gives such a task the identity of this release. Delete when no such artifact is in use.
"""

import hashlib
from pathlib import Path

from ifedicl_serve.checkpoint.files import digest_of, find, read_json
from ifedicl_serve.checkpoint.tokenizer import TOKENIZER_FILES
from ifedicl_serve.contract.artifact import (
    TASK_FILE,
    Artifact,
    load_artifact,
    refuse_other_model,
    task_file,
)
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.signing import SIGNATURE_FILE
from ifedicl_serve.files.writing import write_file


def renew(folder: Path, model: str) -> Artifact:
    """Give a task the identity that this release makes of its model, and the newest schema; nothing
    else of it changes. Its signature, which is of another content, goes.

    Raises ArtifactError unless the model is the task's by all that its identity says.
    """
    artifact, identity = load_artifact(folder), ModelIdentity.of(model)
    before = identity if artifact.spec.model.version > 1 else _identity_1(model, identity)
    refuse_other_model(folder, artifact.spec, before)
    (folder / SIGNATURE_FILE).unlink(missing_ok=True)
    write_file(folder / TASK_FILE, task_file(artifact.spec.model_copy(update={"model": identity})))
    return load_artifact(folder, identity)


def _identity_1(model: str, identity: ModelIdentity) -> ModelIdentity:
    """What older releases would have made of a model whose identity is `identity`."""
    return identity.model_copy(update={"version": 1, "tokenizer_digest": _tokenizer_digest(model)})


def _tokenizer_digest(model: str) -> str:
    paths = {name: path for name in TOKENIZER_FILES if (path := find(model, name)) is not None}
    name, path = next(iter(paths.items()))
    if path.suffix == ".json":
        return digest_of(read_json(model, name))
    return hashlib.sha256(path.read_bytes()).hexdigest()
