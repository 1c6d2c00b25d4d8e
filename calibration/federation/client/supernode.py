"""A data owner's two processes: this one, which answers, and Flower's SuperNode, which asks it."""

import ctypes
import json
import os
import signal
from multiprocessing.connection import Listener
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from threading import Thread

from calibration.federation.client.app import client_app
from calibration.federation.client.forward import ADDRESS
from calibration.federation.client.participant import Owner
from calibration.federation.client.resident import Resident
from calibration.federation.scripts import SCRIPTS
from ifedicl_serve.errors import FederationError

PR_SET_PDEATHSIG = 1


def run_supernode(
    owner: Owner,
    superlink: str,
    root_certificates: Path | None,
    private_key: Path | None,
    insecure: bool,
) -> None:
    """Take part until the SuperNode ends, and exit as it did. Raises FederationError."""
    if insecure == (root_certificates is not None):
        raise FederationError("give either --root-certificates or --insecure")
    arguments = ["--superlink", superlink, "--clientappio-api-address", "127.0.0.1:0"]
    arguments += ["--insecure"] if insecure else ["--root-certificates", str(root_certificates)]
    if private_key is not None:
        arguments += ["--auth-supernode-private-key", str(private_key)]
    with TemporaryDirectory(prefix="ifedicl-") as folder:  # which its user alone may enter
        address = str(Path(folder) / "socket")
        with Listener(address, "AF_UNIX") as listener:
            arguments += ["--node-config", f"{ADDRESS}={json.dumps(address)}"]
            supernode = _started(arguments)
            app = client_app(lambda context: owner)
            Thread(target=Resident(app).serve, args=(listener,), daemon=True).start()
            status = supernode.wait()
    raise SystemExit(status)


def _started(arguments: list[str]) -> Popen[bytes]:
    search = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"  # it starts others by their bare names
    program = str(SCRIPTS / "flower-supernode")
    supernode = Popen(
        [program, *arguments], env=os.environ | {"PATH": search}, preexec_fn=_end_with_parent
    )
    signal.signal(signal.SIGTERM, lambda *_: supernode.terminate())
    return supernode


def _end_with_parent() -> None:
    """A SuperNode alone would answer errors. So it ends when this process is killed, which holds
    the model and is what the kernel would kill for memory."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
