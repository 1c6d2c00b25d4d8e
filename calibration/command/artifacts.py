"""`ifedicl inspect`, `sign`, `renew` and `export`: what is done with a calibrated task.

torch and transformers are imported inside the command, so that --help is quick.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from calibration.command.arguments import (
    Model,
    Task,
)
from calibration.command.tables import artifact_table, tasks_table
from calibration.settings import Machine
from ifedicl_serve.command import run_command
from ifedicl_serve.errors import DataError

if TYPE_CHECKING:
    from ifedicl_serve.contract.signing import TrustedKeys


def inspect(argv: Sequence[str]) -> int:
    """Show what an artifact holds."""
    return run_command("inspect", _inspect, argv)


def sign(argv: Sequence[str]) -> int:
    """Sign artifacts, for servers that ask for it."""
    return run_command("sign", _sign, argv)


def renew(argv: Sequence[str]) -> int:
    """Check tasks of an older release against their model anew."""
    return run_command("renew", _renew, argv)


def export(argv: Sequence[str]) -> int:
    """Fold a task into a plain checkpoint."""
    return run_command("export", _export, argv)


def _inspect(
    artifact: Annotated[
        Path, typer.Argument(help="Folder of a calibrated task, or of several such folders.")
    ],
    trusted_keys: Annotated[
        Path | None,
        typer.Option(help="PEM file of public keys, of which one must have signed each task."),
    ] = None,
) -> None:
    """Show what an artifact holds, after every check serving makes; of a folder of artifacts, which
    of them compute a text once, together."""
    from ifedicl_serve.contract.artifact import TASK_FILE
    from ifedicl_serve.contract.signing import TrustedKeys

    trusted = TrustedKeys.read(trusted_keys) if trusted_keys else None
    folders = sorted(file.parent for file in artifact.glob(f"[!.]*/{TASK_FILE}"))
    if folders and not (artifact / TASK_FILE).exists():
        _inspect_tasks(folders, trusted)
    else:
        _inspect_task(artifact, trusted)


def _inspect_task(folder: Path, trusted: "TrustedKeys | None") -> None:
    from ifedicl_serve.contract.artifact import load_artifact
    from ifedicl_serve.contract.signing import fingerprint, read_signature

    loaded = load_artifact(folder)
    signature = "none"
    if trusted:
        signature = f"by trusted key {fingerprint(trusted.signer_of(folder, loaded.digest))}"
    elif read_signature(folder):
        signature = "not checked; give --trusted-keys"
    Console().print(artifact_table(loaded, signature))


def _inspect_tasks(folders: Sequence[Path], trusted: "TrustedKeys | None") -> None:
    """Raises ArtifactError, behind what is shown of the others, for tasks that would not serve."""
    from ifedicl_serve.contract.artifact import load_artifact
    from ifedicl_serve.errors import ArtifactError

    specs, refusals = [], []
    for folder in folders:
        try:
            specs.append(load_artifact(folder, trusted=trusted).spec)
        except ArtifactError as error:
            refusals.append(str(error))
    Console().print(tasks_table(specs))
    if refusals:
        raise ArtifactError("; ".join(refusals))


def _sign(
    tasks: Annotated[list[Path], typer.Argument(help="Folders of calibrated tasks.")],
    key: Annotated[
        Path,
        typer.Option(
            help="PEM file of an Ed25519 private key (openssl genpkey -algorithm ed25519); "
            "servers are given its public key (openssl pkey -pubout) as --trusted-keys."
        ),
    ],
) -> None:
    """Sign artifacts with your key, so that a server with --trusted-keys serves them.

    All are checked before the first is signed. Calibrating a task again removes its signature.
    """
    from ifedicl_serve.contract.artifact import load_artifact
    from ifedicl_serve.contract.signing import (
        fingerprint,
        public_bytes,
        read_signing_key,
        write_signature,
    )

    private_key = read_signing_key(key)
    digests = {task: load_artifact(task).digest for task in tasks}
    for task, digest in digests.items():
        write_signature(task, digest, private_key)
        name = fingerprint(public_bytes(private_key.public_key()))
        Console().print(f"signed {task} (digest {digest[:16]}) with key {name}")


def _renew(
    model: Model,
    tasks: Annotated[list[Path], typer.Argument(help="Folders of tasks calibrated on it.")],
) -> None:
    """Write into tasks of an older release what this one tells their model by.

    A task of another model is refused, as far as its release could tell. What was fitted stays as
    it is; a signature goes, so sign the task again.
    """
    from ifedicl_serve.contract.identity_1 import renew

    for task in tasks:
        Console().print(f"renewed {task} (digest {renew(task, model).digest[:16]})")


def _export(
    model: Model,
    task: Task,
    out: Annotated[Path, typer.Option(help="Folder for the new checkpoint.")],
    fused: Annotated[
        bool, typer.Option("--fused", help="Fold the task into the weights (the only kind).")
    ] = False,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16 weights.")] = "bf16",
) -> None:
    """Write a plain Hugging Face checkpoint with the task folded in; any engine runs it."""
    from calibration.model.load import open_model
    from calibration.result.export import export_fused
    from ifedicl_serve.contract.artifact import load_artifact
    from ifedicl_serve.contract.identity import ModelIdentity

    if not fused:
        raise DataError("nothing to do without --fused, the only kind of export; add it")
    artifact = load_artifact(task, ModelIdentity.of(model))
    export_fused(open_model(model, Machine(dtype, "cpu")), model, artifact, out)
    Console().print(f"wrote {out}: {model} with task {artifact.spec.name} folded in")
