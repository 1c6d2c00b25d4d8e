"""The whole path: equal runs give equal digests, and a killed run ends as an undisturbed one."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import pytest
import torch

from calibration.command.calibrate import calibrate as run_cli
from calibration.data.examples import Example
from calibration.model.hooked import HookedModel
from calibration.result.outcome import Outcome
from calibration.result.record import round_losses, wire_bytes
from calibration.run.local import Job, calibrate_here
from calibration.run.progress import Progress
from calibration.settings import Settings
from calibration.state import STATE_FILE, StateStore
from calibration.task import TaskDefinition
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import DataError

SETTINGS = Settings(layers=(1, 2), rounds=3, local_steps=3, batch_size=4)


class Killed(Exception):
    """Stands for a kill after a round has been saved."""


class KilledAfter(Progress):
    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    def fitting(self, client: int, round_index: int):
        if round_index == self.rounds:
            raise Killed
        return super().fitting(client, round_index)


@pytest.fixture
def job(
    llama: HookedModel, llama_folder: Path, task: TaskDefinition, examples: list[Example]
) -> Job:
    """Two clients of five rows and two rows held out."""
    clients = [examples[:5], examples[5:10]]
    identity = ModelIdentity.of(str(llama_folder))
    return Job(llama, identity, task, clients, examples[10:], SETTINGS)


def run(job: Job, folder: Path, progress: Progress | None = None) -> Outcome:
    store = StateStore(folder.parent / f".{folder.name}.state", job.fingerprint())
    return calibrate_here(job, folder, store, progress or Progress())


def test_artifact_is_what_the_job_says(job: Job, tmp_path: Path) -> None:
    outcome = run(job, tmp_path / "toy")
    artifact = load_artifact(tmp_path / "toy", job.identity, outcome.artifact.digest)
    assert artifact.spec.layers == (1, 2)
    assert artifact.spec.calibration.client_sizes == (5, 5)
    assert artifact.spec.calibration.metrics["adapted_log_loss"] == outcome.after["log_loss"]
    assert artifact.spec.calibration.round_losses == pytest.approx(
        [fmean(loss for steps in clients for loss in steps) for clients in outcome.state.losses],
        abs=1e-6,
    )
    assert torch.equal(artifact.coefficients, outcome.state.current)
    assert outcome.state.coefficients.shape == (4, 3, 2, 2)
    assert [len(one_round) for one_round in outcome.state.losses] == [2, 2, 2]
    assert list(tmp_path.iterdir()) == [tmp_path / "toy"]  # the state is gone


def test_two_runs_have_the_same_digest(job: Job, tmp_path: Path) -> None:
    first, second = run(job, tmp_path / "a"), run(job, tmp_path / "b")
    assert first.artifact.digest == second.artifact.digest
    other = dataclasses.replace(job, settings=dataclasses.replace(SETTINGS, seed=1))
    assert run(other, tmp_path / "c").artifact.digest != first.artifact.digest


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_killed_run_continues_to_the_same_artifact(job: Job, tmp_path: Path, rounds: int) -> None:
    undisturbed = run(job, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        run(job, tmp_path / "killed", KilledAfter(rounds))
    assert not (tmp_path / "killed").exists()
    resumed = run(job, tmp_path / "killed")
    assert resumed.artifact.digest == undisturbed.artifact.digest
    assert resumed.state.losses == undisturbed.state.losses
    assert resumed.warnings == undisturbed.warnings


def test_a_state_of_other_settings_or_data_is_refused(job: Job, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(job, tmp_path / "toy", KilledAfter(1))
    fewer = dataclasses.replace(job, clients=job.clients[:1])
    slower = dataclasses.replace(job, settings=dataclasses.replace(SETTINGS, learning_rate=0.01))
    for other in (fewer, slower):
        with pytest.raises(DataError, match="other settings, model or data, or by another version"):
            run(other, tmp_path / "toy")
    run(job, tmp_path / "toy")  # it was left alone


def test_a_damaged_state_is_refused(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / ".toy.state"
    folder.mkdir()
    (folder / STATE_FILE).write_bytes(b"half a file")
    with pytest.raises(DataError, match="not a calibration state .*remove it to start afresh"):
        run(job, tmp_path / "toy")


def test_nothing_held_out_measures_nothing(job: Job, tmp_path: Path) -> None:
    outcome = run(dataclasses.replace(job, held_out=[]), tmp_path / "toy")
    assert outcome.before == outcome.after == {}
    assert outcome.artifact.spec.calibration.metrics == {"held_out": 0.0}


def test_round_losses_are_means_over_steps_and_nothing_if_a_round_was_withheld() -> None:
    assert round_losses([[[1.0, 2.0], [6.0]], [[0.5], []]]) == (3.0, 0.5)
    assert round_losses([[[1.0], [2.0]], [[], []]]) == ()


def test_wire_bytes_worked_by_hand(llama: HookedModel) -> None:
    # vector: 4 bytes * 3 layers * 2 sites * 64; coefficients: 4 * 3 * 2 * 2
    assert wire_bytes((3, 2, 64), vector_bytes=1536, rounds=3, clients=2) == {
        "context_vector_per_client_each_way": 1536,
        "coefficients_per_client_and_round_each_way": 48,
        "total": 2 * 2 * (1536 + 3 * 48),
    }


def test_sigkill_in_a_real_process_then_resume(
    llama_folder: Path, examples: list[Example], tmp_path: Path
) -> None:
    data = tmp_path / "rows.csv"
    rows = [f"{example.text},{example.label}" for example in examples]
    data.write_text("\n".join(["text,label", *rows]))

    def arguments(out: str) -> list[str]:
        paths = f"--model {llama_folder} --data {data} --out {tmp_path / out} --name toy"
        return f"{paths} --rounds 30 --local-steps 1 --batch-size 1 --held-out 0.2".split()

    code = (
        "import sys; from calibration.command.calibrate import calibrate; calibrate(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments("killed")],
        stdout=subprocess.DEVNULL,
    )
    state = tmp_path / ".killed.state" / STATE_FILE
    while not state.exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert state.exists() and not (tmp_path / "killed").exists()
    assert run_cli(arguments("killed")) == run_cli(arguments("undisturbed")) == 0
    digests = {load_artifact(tmp_path / name).digest for name in ("killed", "undisturbed")}
    assert len(digests) == 1
    assert not state.exists()
