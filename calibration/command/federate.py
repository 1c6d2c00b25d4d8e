"""`ifedicl federate` and `ifedicl client`: options and output, no computing."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from calibration.command.arguments import (
    Columns,
    FitOptions,
    MachineOptions,
    Model,
    Out,
    PrivacyOptions,
    PromptOptions,
    Seed,
    StartFrom,
    Truncate,
)
from ifedicl_serve.command import run_command
from ifedicl_serve.errors import FederationError

# Flower tells its makers about every run unless it is told not to.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")


def federate(argv: Sequence[str]) -> int:
    """Calibrate with clients on their own machines."""
    return run_command("federate", _federate, argv)


def client(argv: Sequence[str]) -> int:
    """Take part in a federation with your own data."""
    return run_command("client", _client, argv)


def partition(argv: Sequence[str]) -> int:
    """Share one file out among simulated clients."""
    return run_command("partition", _partition, argv)


def _federate(
    *,
    model: Model,
    out: Out,
    labels: Annotated[str, typer.Option(help="name,name=words,... or @labels.json")],
    clients: Annotated[
        int | None, typer.Option(help="How many clients to wait for (default: those simulated).")
    ] = None,
    superlink: Annotated[
        str | None, typer.Option(help="SuperLink connection named in Flower's config.toml.")
    ] = None,
    simulate: Annotated[
        list[Path] | None,
        typer.Option(help="Run here instead: a client's file (repeat), or a folder of them."),
    ] = None,
    quorum: Annotated[
        int | None, typer.Option(help="Fewest clients that must answer (default: all).")
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for clients.")] = 600,
    timeout: Annotated[float, typer.Option(help="Seconds a stage may take.")] = 3600,
    prompt: PromptOptions,
    fit: FitOptions,
    wire: Annotated[
        str, typer.Option(help="Context vector and channels as fp32, fp16 or int8.")
    ] = "fp32",
    start_from: StartFrom = None,
    privacy: PrivacyOptions,
    held_out: Annotated[
        float,
        typer.Option(
            help="Of a simulated client's rows, the part that rungs are chosen and judged by."
        ),
    ] = 0.2,
    columns: Columns,
    truncate: Truncate = False,
    machine: MachineOptions,
    seed: Seed = 0,
) -> None:
    """Coordinate a calibration whose clients keep their data, over Flower."""
    from calibration.command.parse import parse_labels
    from calibration.command.prepare import define_task, settings_of
    from calibration.command.shared import refuse_unshared
    from calibration.federation.coordinator.app import FederationJob
    from calibration.federation.coordinator.fleet import Terms
    from calibration.federation.coordinator.submit import prepare_invitation, submit
    from calibration.federation.simulate import data_digests, owners_of
    from calibration.federation.simulate import simulate as run_here
    from calibration.stages.robust import refuse_few_voters
    from ifedicl_serve.checkpoint.tokenizer import load_tokenizer
    from ifedicl_serve.contract.artifact import refuse_occupied

    refuse_occupied(out)
    refuse_unshared(prompt, fit)
    named = parse_labels(labels, [])
    if (superlink is None) == (simulate is None):
        raise FederationError("give either --superlink or --simulate")
    owners = owners_of(simulate or [], model, *columns.names, held_out, truncate, machine.machine)
    expected = clients or len(owners)
    terms = Terms(expected, expected if quorum is None else quorum, wait, timeout)
    refuse_few_voters(fit.aggregation, terms.quorum)
    tokenizer = load_tokenizer(model)
    invitation = prepare_invitation(
        model,
        tokenizer,
        define_task(prompt, out, named, tokenizer),
        wire,
        lambda num_layers: settings_of(fit, privacy, num_layers, seed),
    )
    job = FederationJob(
        invitation=invitation,
        terms=terms,
        out=out.resolve(),
        state=(out.parent / f".{out.name}.state").resolve(),
        report=(out / "report").resolve(),
        start_from=start_from.resolve() if start_from else None,
        data=data_digests(owners, invitation),
    )
    job.shelf()  # a folder without a task to start from is an error now
    if superlink is None:
        run_here(job, owners)
    else:
        submit(job, superlink)


def _client(
    *,
    model: Model,
    data: Annotated[Path, typer.Option(help="Your labelled examples; they stay here.")],
    client: Annotated[int, typer.Option(help="Your number in the federation, from 0.")],
    superlink: Annotated[str, typer.Option(help="Address of the SuperLink, HOST:PORT.")],
    root_certificates: Annotated[
        Path | None, typer.Option(help="Certificate authority of the SuperLink (PEM).")
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(help="Your key, known to the SuperLink.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No TLS: only for trying out on one machine.")
    ] = False,
    held_out: Annotated[
        float, typer.Option(help="Part of your rows by which rungs are chosen and judged.")
    ] = 0.2,
    max_epsilon: Annotated[
        float, typer.Option(help="Weakest differential privacy you agree to; 0: any, or none.")
    ] = 0.0,
    max_delta: Annotated[float, typer.Option(help="With --max-epsilon: largest delta.")] = 1e-5,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what you answered with differential privacy, to be given again "
            "(default: hidden, beside --data)."
        ),
    ] = None,
    columns: Columns,
    truncate: Truncate = False,
    machine: MachineOptions,
) -> None:
    """Take part in a federation; vectors, sums and counts leave, never text.

    Runs until it is stopped (Ctrl-C).
    """
    from calibration.federation.client.participant import Owner
    from calibration.federation.client.supernode import run_supernode

    owner = Owner(
        client,
        str(Path(model).resolve()) if Path(model).is_dir() else model,
        data.resolve(),
        *columns.names,
        held_out,
        max_epsilon=max_epsilon,
        max_delta=max_delta,
        answers=(answers or data.parent / f".{data.name}.answers").resolve(),
        truncate=truncate,
        machine=machine.machine,
    )
    owner.rows()  # a mistyped file is an error now, not a refusal when the coordinator comes
    run_supernode(owner, superlink, root_certificates, private_key, insecure)


def _partition(
    *,
    data: Annotated[Path, typer.Option(help="Labelled examples to share out.")],
    how: Annotated[
        str, typer.Option(help="iid, dirichlet:ALPHA, label, or contradictory:N (of them).")
    ],
    clients: Annotated[int, typer.Option(help="Number of clients.")],
    out: Annotated[Path, typer.Option(help="Folder for one file a client.")],
    columns: Columns,
    seed: Seed = 0,
) -> None:
    """Share one file out among simulated clients."""
    from calibration.data.examples import read_examples
    from calibration.data.partition import split, write_clients

    rows = read_examples(data, *columns.names)
    paths = write_clients(split(rows, how, clients, seed), out)
    typer.echo(f"wrote {len(paths)} files to {out}")
