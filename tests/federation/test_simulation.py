"""Flower's own simulation, in Ray's workers, from the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.federation.cli import federate
from calibration.federation.server_app import FederationJob
from calibration.federation.simulate import owners_of
from calibration.task import TaskDefinition
from ifedicl_serve.artifact import load_artifact
from ifedicl_serve.errors import DataError

IFEDICL = Path(sys.executable).with_name("ifedicl")
OPTIONS = ["--rounds=2", "--local-steps=3", "--batch-size=4", "--layers=last:2"]


def ifedicl(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(IFEDICL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def labels_of(task: TaskDefinition) -> str:
    return ",".join(task.names)


def test_simulation_equals_calibration_in_one_process(
    clients: list[Path], llama_folder: Path, task: TaskDefinition, tmp_path: Path
) -> None:
    common = [f"--model={llama_folder}", f"--labels={labels_of(task)}", *OPTIONS]
    simulated = [f"--simulate={path}" for path in clients]
    run = ifedicl("federate", *common, f"--out={tmp_path / 'federated'}", *simulated)
    assert run.returncode == 0, run.stdout + run.stderr
    local = ifedicl(
        "calibrate",
        *common,
        f"--out={tmp_path / 'local'}",
        *[f"--client={path}" for path in clients],
    )
    assert local.returncode == 0, local.stderr
    federated = load_artifact(tmp_path / "federated").spec
    assert federated.vectors_sha256 == load_artifact(tmp_path / "local").spec.vectors_sha256
    report = (tmp_path / "federated" / "report" / "report.md").read_text()
    assert "| 2 | train.fit | up | 2 |" in report  # client 2 sent two rounds


def test_a_failed_simulation_says_so(
    clients: list[Path], llama_folder: Path, tmp_path: Path
) -> None:
    """No client knows the labels, so none accepts."""
    run = ifedicl(
        "federate",
        f"--model={llama_folder}",
        "--labels=other,labels",
        f"--out={tmp_path / 'task'}",
        f"--simulate={clients[0]}",
        "--wait=5",
    )
    assert run.returncode == 1
    assert "0 clients accepted the invitation, 1 are needed" in run.stderr
    assert not (tmp_path / "task").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --superlink or --simulate"),
        (["--superlink=a", "--simulate=b"], "give either --superlink or --simulate"),
        (["--simulate=b", "--wire=int4"], "Input should be 'fp32', 'fp16' or 'int8'"),
        (["--simulate=b", "--aggregation=median"], "median outvotes nobody among 1 clients"),
        (["--simulate=b", "--quorum=2"], "quorum is 2, expected between 1 and the 1 clients"),
    ],
)
def test_wrong_options_are_refused_at_once(
    options: list[str],
    message: str,
    llama_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = [f"--model={llama_folder}", "--labels=a,b", f"--out={tmp_path / 'task'}"]
    assert federate([*common, *options]) == 1
    assert message in capsys.readouterr().err


def test_partition_writes_files_that_simulation_reads_in_order(
    tmp_path: Path, llama_folder: Path
) -> None:
    rows = [{"text": f"text {row}", "label": "ab"[row % 2]} for row in range(24)]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = ifedicl(
        "partition",
        f"--data={tmp_path / 'all.jsonl'}",
        "--how=iid",
        "--clients=12",
        f"--out={tmp_path / 'parts'}",
    )
    assert run.returncode == 0, run.stderr
    owners = owners_of([tmp_path / "parts"], str(llama_folder), "text", "label", 0.2)
    assert [owner.data.name for owner in owners] == [f"client-{n}.jsonl" for n in range(12)]
    shutil.rmtree(tmp_path / "parts")
    (tmp_path / "parts").mkdir()
    with pytest.raises(DataError, match="is empty"):
        owners_of([tmp_path / "parts"], str(llama_folder), "text", "label", 0.2)


def test_a_job_survives_its_file(invitation, tmp_path: Path) -> None:
    job = FederationJob(
        invitation=invitation,
        terms={"clients": 3, "quorum": 2},
        out=tmp_path / "out",
        state=tmp_path / "state",
        report=tmp_path / "report",
    )
    job.write(tmp_path / "new" / "job.json")
    assert FederationJob.read(tmp_path / "new" / "job.json") == job
