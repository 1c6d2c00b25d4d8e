"""Flower's own simulation, in Ray's workers, from the command line."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.command.federate import federate
from calibration.federation.coordinator.app import FederationJob
from calibration.federation.simulate import backend, data_digests, owners_of
from calibration.federation.wire.invitation import Invitation
from calibration.task import TaskDefinition
from ifedicl_serve.errors import DataError

IFEDICL = Path(sys.executable).with_name("ifedicl")
OPTIONS = ["--fit=coefficients", "--readout=none", "--layers=last:2"]  # a message a round
OPTIONS += ["--rounds=2", "--local-steps=3", "--batch-size=4"]


def ifedicl(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(IFEDICL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def labels_of(task: TaskDefinition) -> str:
    return ",".join(task.names)


def test_a_failed_simulation_says_so(
    clients: list[Path], llama_folder: Path, task: TaskDefinition, tmp_path: Path
) -> None:
    """Nobody is the second client it waits for."""
    run = ifedicl(
        "federate",
        f"--model={llama_folder}",
        f"--labels={labels_of(task)}",
        f"--out={tmp_path / 'task'}",
        f"--simulate={clients[0]}",
        "--clients=2",
        "--wait=5",
    )
    assert run.returncode == 1
    assert "clients accepted the invitation, 2 are needed" in run.stderr
    assert not (tmp_path / "task").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --superlink or --simulate"),
        (["--superlink=a", "--simulate=b"], "give either --superlink or --simulate"),
        (["--simulate=b", "--wire=int4"], "Input should be 'fp32', 'fp16' or 'int8'"),
        (["--simulate=b", "--aggregation=median"], "median outvotes nobody among 1 clients"),
        (["--simulate=b", "--quorum=2"], "quorum is 2, expected between 1 and the 1 clients"),
        (["--simulate=b", "--wait=-1"], "wait is -1.0 seconds, expected above 0 and finite"),
        (["--simulate=b", "--wait=nan"], "wait is nan seconds, expected above 0 and finite"),
        (["--simulate=b", "--timeout=0"], "timeout is 0.0 seconds, expected above 0 and finite"),
        (["--simulate=b", "--timeout=inf"], "timeout is inf seconds, expected above 0 and finite"),
        (
            ["--simulate=b", "--labels=a,b,a=c"],
            "labels 'a,b,a=c': label 'a' is there twice; leave one out",
        ),
        (["--simulate=b", "--lr=inf"], "learning rate is inf, expected above 0 and finite"),
        (["--simulate=b", "--vector-clip=inf"], "vector clip is inf, expected above 0 and finite"),
        (["--simulate=b", "--name=a task"], "should match pattern"),
        (["--simulate=typo.jsonl"], "typo.jsonl: cannot read: No such file"),
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels=a,b"], "unknown label 'energy', 'energy from the sun', 'water', 'water bill'"),
        (["--held-out=1.5"], "held-out fraction is 1.5, expected 0 or more and less than 1"),
        (["--text-column=body"], "no column 'body'"),
    ],
)
def test_rows_that_a_client_would_refuse_are_refused_at_once(
    options: list[str],
    message: str,
    clients: list[Path],
    llama_folder: Path,
    task: TaskDefinition,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not after --wait, and not without the reason, which a client keeps to itself."""
    common = [f"--model={llama_folder}", f"--labels={labels_of(task)}", f"--out={tmp_path / 'o'}"]
    assert federate([*common, f"--simulate={clients[0]}", *options]) == 1
    assert message in capsys.readouterr().err


def test_case_4_a_simulated_row_that_is_too_long_is_named_before_anybody_waits(
    llama_folder: Path,
    clients: list[Path],
    task: TaskDefinition,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with clients[0].open("a") as file:
        file.write(json.dumps({"text": "and so on " * 1000, "label": "water"}))
    common = [f"--model={llama_folder}", f"--labels={labels_of(task)}", f"--out={tmp_path / 'o'}"]
    assert federate([*common, f"--simulate={clients[0]}"]) == 1
    error = capsys.readouterr().err
    assert f"{clients[0]}: row 6: its prompt has " in error and "--truncate" in error


def test_simulated_data_have_a_digest_of_their_rows(
    clients: list[Path], invitation: Invitation, llama_folder: Path
) -> None:
    owners = owners_of(clients[:2], str(llama_folder), "text", "label", 0.2, truncate=False)
    digests = data_digests(owners, invitation)
    assert data_digests(owners, invitation) == digests
    split = [dataclasses.replace(owner, held_out=0.5) for owner in owners]
    assert set(data_digests(split, invitation)).isdisjoint(digests)
    lines = clients[1].read_text().splitlines(keepends=True)
    clients[1].write_text("".join(lines[1:]))
    first, second = data_digests(owners, invitation)
    assert first == digests[0] and second != digests[1]


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
    for other in ("README.md", ".client-0.jsonl.answers", ".client-1.jsonl"):
        (tmp_path / "parts" / other).write_text("")
    owners = owners_of([tmp_path / "parts"], str(llama_folder), "text", "label", 0.2, False)
    assert [owner.data.name for owner in owners] == [f"client-{n}.jsonl" for n in range(12)]
    shutil.rmtree(tmp_path / "parts")
    (tmp_path / "parts").mkdir()
    with pytest.raises(DataError, match="holds no data file .*ifedicl partition"):
        owners_of([tmp_path / "parts"], str(llama_folder), "text", "label", 0.2, False)


@pytest.mark.parametrize(
    ("hidden_size", "gpus", "client"),
    [
        (256, 0, {"num_cpus": 1, "num_gpus": 0}),  # a model a core, in one thread each
        (256, 2, {"num_cpus": 1, "num_gpus": 0.25}),
        (4096, 0, {"num_cpus": 8, "num_gpus": 0}),  # one model, in turn
        (4096, 2, {"num_cpus": 8, "num_gpus": 2}),
    ],
)
def test_a_wide_model_is_loaded_once_and_not_once_a_core(
    hidden_size: int, gpus: int, client: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    chosen = backend(hidden_size)
    assert chosen["client_resources"] == client
    assert chosen["init_args"] == {"num_cpus": 8, "num_gpus": gpus, "include_dashboard": False}


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
