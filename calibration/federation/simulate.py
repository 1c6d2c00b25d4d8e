"""The same two apps in one process and Ray's workers: Flower's simulation."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from calibration.federation.client.app import client_app
from calibration.federation.client.participant import Owner
from calibration.federation.coordinator.app import FederationJob
from calibration.federation.wire.invitation import Invitation
from calibration.model.load import HERE, NARROW
from calibration.settings import Machine
from calibration.state import fingerprint
from ifedicl_serve.errors import DataError
from ifedicl_serve.files.table_formats import FORMATS


def owners_of(
    paths: Sequence[Path],
    model: str,
    text_column: str,
    label_column: str,
    held_out: float,
    truncate: bool,
    machine: Machine = HERE,
) -> list[Owner]:
    """One simulated owner per file, or per data file of a folder, in the order of their names."""
    files = [one for path in paths for one in (_in_order(path) if path.is_dir() else [path])]
    return [
        Owner(
            client,
            model,
            file.resolve(),
            text_column,
            label_column,
            held_out,
            truncate=truncate,
            machine=machine,
        )
        for client, file in enumerate(files)
    ]


def data_digests(owners: Sequence[Owner], invitation: Invitation) -> tuple[str, ...]:
    """The rows of each owner, in their parts. Raises DataError for rows that its client would
    refuse: nobody need wait for that, and here the reason may be told."""
    splits = [owner.rows(invitation.task, invitation.settings.seed) for owner in owners]
    return tuple(
        fingerprint([[(row.text, row.label) for row in rows] for rows in split]) for split in splits
    )


def simulate(job: FederationJob, owners: Sequence[Owner]) -> None:
    """Run a federation of these owners on this machine.

    Raises what the coordinator raises. `run_simulation` is what Flower 1.32 offers to a
    program; its successor, `flwr run`, leaves a SuperLink running behind it.
    """
    from flwr.simulation import run_simulation

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        job.run(grid)

    def owner_of(context: Context) -> Owner:
        return owners[int(context.node_config["partition-id"])]

    run_simulation(
        server,
        client_app(owner_of),
        num_supernodes=len(owners),
        backend_config=backend(job.invitation.hidden_size),
    )


def backend(hidden_size: int) -> dict[str, Any]:
    """What Ray has, and what of it a client takes. Ray loads a model for each client that runs at
    once: of a narrow one, which computes in one thread (`open_model`), one a core; of any other
    one in all."""
    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    client: dict[str, float] = {"num_cpus": cpus, "num_gpus": gpus}
    if hidden_size <= NARROW:
        client = {"num_cpus": 1, "num_gpus": min(1.0, gpus / cpus)}
    ray = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False}
    return {"init_args": ray, "client_resources": client}


def _in_order(folder: Path) -> list[Path]:
    """Its data files, client-2 before client-10."""
    files = [file for file in folder.glob("[!.]*") if file.suffix.lower() in FORMATS]
    if not files:
        raise DataError(
            f"{folder} holds no data file ({', '.join(FORMATS)}); write one a client there with "
            "ifedicl partition"
        )
    return sorted(files, key=lambda file: (len(file.name), file.name))
