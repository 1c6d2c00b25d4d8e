"""Real SuperLink and SuperNodes over gRPC with TLS and registered keys, on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from calibration.task import TaskDefinition
from ifedicl_serve.contract.artifact import load_artifact
from tests.federation.deployment import Deployment, deployed, kill, make_certificates, make_key
from tests.federation.test_simulation import OPTIONS, ifedicl, labels_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    (tmp_path / "deployment").mkdir()
    with deployed(tmp_path / "deployment") as running:
        yield running


def federate(deployment: Deployment, model: Path, task: TaskDefinition, out: Path, *options: str):
    return deployment.run(
        "ifedicl",
        "federate",
        f"--model={model}",
        f"--labels={labels_of(task)}",
        f"--out={out}",
        "--name=toy",
        "--superlink=site",
        "--clients=2",
        *OPTIONS,
        *options,
    )


def test_deployed_simulated_and_in_one_process_the_result_is_the_same(
    deployment: Deployment,
    clients: list[Path],
    llama_folder: Path,
    task: TaskDefinition,
    tmp_path: Path,
) -> None:
    """And the other goes on when a client has died, with the model it loaded at the beginning."""
    clients = clients[:2]
    # Too few are an error that says what to do, and the state is kept.
    few = federate(deployment, llama_folder, task, tmp_path / "deployed", "--wait=3")
    assert few.returncode == 1
    assert "0 clients accepted the invitation, 2 are needed" in few.stdout
    assert "run the same command again" in few.stderr
    assert not (tmp_path / "deployed").exists()

    # With all clients the same command ends with the artifact of the simulation.
    nodes = [deployment.client(n, llama_folder, path) for n, path in enumerate(clients)]
    run = federate(deployment, llama_folder, task, tmp_path / "deployed", "--wait=90")
    assert run.returncode == 0, run.stdout
    common = [f"--model={llama_folder}", f"--labels={labels_of(task)}", "--name=toy", *OPTIONS]
    for command, option in (("federate", "simulate"), ("calibrate", "client")):
        data = [f"--{option}={path}" for path in clients]
        done = ifedicl(command, *common, *data, f"--out={tmp_path / command}")
        assert done.returncode == 0, done.stdout + done.stderr
    simulated = load_artifact(tmp_path / "federate")
    assert load_artifact(tmp_path / "deployed").digest == simulated.digest
    local = load_artifact(tmp_path / "calibrate")
    assert simulated.spec.vectors_sha256 == local.spec.vectors_sha256
    report = (tmp_path / "federate" / "report" / "report.md").read_text()
    assert "| 1 | train.fit | up | 2 |" in report  # client 1 sent two rounds

    # A client dies: the other goes on without it.
    kill(nodes[1])
    # It begins where the task before ended, if its held-out row speaks for that.
    start = f"--start-from={tmp_path / 'deployed'}"
    alone = ["--quorum=1", "--wait=20", "--rounds=1", start]
    again = federate(deployment, llama_folder, task, tmp_path / "one", *alone)
    assert again.returncode == 0, again.stdout
    assert len(load_artifact(tmp_path / "one").spec.calibration.client_sizes) == 1
    report = (tmp_path / "one" / "report" / "report.md").read_text()
    assert "## Where it began" in report and "| coefficients | toy |" in report
    assert deployment.log(nodes[0]).count("memory: ") == 1


def test_strangers_are_refused(
    deployment: Deployment, clients: list[Path], llama_folder: Path, tmp_path: Path
) -> None:
    """Without the authority's certificate TLS fails; without a registered key the SuperLink."""
    (tmp_path / "other").mkdir()
    common = [
        "client",
        f"--model={llama_folder}",
        f"--data={clients[0]}",
        "--client=0",
        f"--superlink=127.0.0.1:{deployment.fleet}",
    ]
    deceived = deployment.start(
        "ifedicl",
        *common,
        f"--root-certificates={make_certificates(tmp_path / 'other')}",
        f"--private-key={deployment.registered_key(0)}",
    )
    stranger = deployment.start(
        "ifedicl",
        *common,
        f"--root-certificates={deployment.certificate}",
        f"--private-key={make_key(tmp_path / 'unregistered')}",
    )
    deployment.wait_for_log(deceived, "TLS handshake error detected")
    deployment.wait_for_log(stranger, "No SuperNode found with the given public key")
    assert "PullMessages" not in deployment.log(deployment.superlink)
