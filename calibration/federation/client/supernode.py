"""A data owner's one process: Flower's SuperNode, told where the model and the rows are."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from calibration.federation.client.participant import Owner
from calibration.federation.scripts import SCRIPTS
from ifedicl_serve.errors import FederationError


def run_supernode(
    owner: Owner,
    superlink: str,
    root_certificates: Path | None,
    private_key: Path | None,
    insecure: bool,
) -> None:
    """Become a SuperNode; does not return. Raises FederationError."""
    if insecure == (root_certificates is not None):
        raise FederationError("give either --root-certificates or --insecure")
    arguments = ["--superlink", superlink, "--clientappio-api-address", "127.0.0.1:0"]
    arguments += ["--node-config", node_config(owner)]
    arguments += ["--insecure"] if insecure else ["--root-certificates", str(root_certificates)]
    if private_key is not None:
        arguments += ["--auth-supernode-private-key", str(private_key)]
    search = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"  # it starts others by their bare names
    program = str(SCRIPTS / "flower-supernode")
    os.execve(program, [program, *arguments], os.environ | {"PATH": search})


def node_config(owner: Owner) -> str:
    """The owner as Flower's `--node-config` takes it: TOML pairs in one line."""
    values = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(owner).items()}
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
