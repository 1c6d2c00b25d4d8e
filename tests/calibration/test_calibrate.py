"""The whole path: equal runs give equal digests, and a killed run ends as an undisturbed one."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from calibration.command.calibrate import calibrate as run_cli
from calibration.data.examples import Example
from calibration.data.rows import Rows
from calibration.ladder import LADDER
from calibration.model.hooked import HookedModel
from calibration.result.outcome import Outcome
from calibration.run.local import Job, calibrate_here
from calibration.run.progress import Progress
from calibration.settings import Settings, SiteFit
from calibration.stages.evaluate import compare
from calibration.stages.read import features_of
from calibration.state import STATE_FILE, StateStore
from calibration.task import TaskDefinition
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.errors import DataError
from ifedicl_serve.fitting.judge import NOTHING
from ifedicl_serve.fitting.rungs import BARE_RUNGS, ZERO_SHOT
from ifedicl_serve.fitting.task import fit_task

PAPER = Settings(
    layers=(1, 2), fit="coefficients", readout="none", rounds=3, local_steps=3, batch_size=4
)


class Killed(Exception):
    """Stands for a kill after a round has been saved."""


class KilledAfter(Progress):
    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    def fitting(self, fit: SiteFit, client: int, round_index: int):
        if round_index == self.rounds:
            raise Killed
        return super().fitting(fit, client, round_index)


@pytest.fixture
def job(
    llama: HookedModel, llama_folder: Path, task: TaskDefinition, examples: list[Example]
) -> Job:
    """Two clients of five rows and one held out, on the paper's rung."""
    clients = [Rows(examples[:5], examples[10:11]), Rows(examples[5:10], examples[11:])]
    identity = ModelIdentity.of(str(llama_folder))
    return Job(llama, identity, task, clients, [], PAPER)


def run(job: Job, folder: Path, progress: Progress | None = None) -> Outcome:
    store = StateStore(folder.parent / f".{folder.name}.state", job.fingerprint())
    return calibrate_here(job, folder, store, progress or Progress())


def test_artifact_is_what_the_job_says(job: Job, tmp_path: Path) -> None:
    outcome = run(job, tmp_path / "toy")
    state = outcome.done.state
    losses = state.losses["coefficients"]
    artifact = load_artifact(tmp_path / "toy", job.identity, outcome.artifact.digest)
    assert artifact.spec.layers == (1, 2)
    assert artifact.spec.calibration.client_sizes == (5, 5)
    assert (
        artifact.spec.calibration.metrics["adapted_log_loss"]
        == outcome.done.measured.after["log_loss"]
    )
    assert artifact.spec.calibration.round_losses == pytest.approx(
        [fmean(loss for steps in clients for loss in steps) for clients in losses],
        abs=1e-6,
    )
    assert torch.equal(artifact.coefficients, state.current("coefficients"))
    assert state.values["coefficients"].shape == (4, 3, 2, 2)
    assert [len(one_round) for one_round in losses] == [2, 2, 2]
    assert list(tmp_path.iterdir()) == [tmp_path / "toy"]  # the state is gone


def test_two_runs_have_the_same_digest(job: Job, tmp_path: Path) -> None:
    first, second = run(job, tmp_path / "a"), run(job, tmp_path / "b")
    assert first.artifact.digest == second.artifact.digest
    other = dataclasses.replace(job, settings=dataclasses.replace(PAPER, seed=1))
    assert run(other, tmp_path / "c").artifact.digest != first.artifact.digest


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_killed_run_continues_to_the_same_artifact(job: Job, tmp_path: Path, rounds: int) -> None:
    undisturbed = run(job, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        run(job, tmp_path / "killed", KilledAfter(rounds))
    assert not (tmp_path / "killed").exists()
    resumed = run(job, tmp_path / "killed")
    assert resumed.artifact.digest == undisturbed.artifact.digest
    assert resumed.done.state.losses == undisturbed.done.state.losses
    assert resumed.warnings == undisturbed.warnings


def test_a_state_of_other_settings_or_data_is_refused(job: Job, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(job, tmp_path / "toy", KilledAfter(1))
    fewer = dataclasses.replace(job, clients=job.clients[:1])
    slower = dataclasses.replace(job, settings=dataclasses.replace(PAPER, learning_rate=0.01))
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
    trained = [Rows(rows.train) for rows in job.clients]
    outcome = run(dataclasses.replace(job, clients=trained), tmp_path / "toy")
    assert outcome.done.measured == NOTHING
    assert outcome.artifact.spec.calibration.metrics == {"held_out": 0.0}


def climbed(job: Job, **changes) -> Job:
    return dataclasses.replace(job, settings=dataclasses.replace(PAPER, **changes))


@pytest.mark.parametrize(
    ("fit", "readout", "tensors"),
    [
        ("bias", "auto", {"bias", "sharpness"}),
        ("head", "auto", {"bias", "label_rows", "sharpness"}),
        ("coefficients", "bias", {"context_vector", "coefficients", "bias", "sharpness"}),
        ("channels", "none", {"context_vector", "scale", "shift"}),
        (
            "channels",
            "head",
            {"context_vector", "scale", "shift", "bias", "label_rows", "sharpness"},
        ),
    ],
)
def test_every_rung_is_calibrated_to_what_it_says(
    job: Job, tmp_path: Path, fit: str, readout: str, tensors: set[str]
) -> None:
    outcome = run(climbed(job, fit=fit, readout=readout), tmp_path / "toy")
    artifact = load_artifact(tmp_path / "toy", job.identity, outcome.artifact.digest)
    assert set(artifact.spec.tensors) == tensors
    assert artifact.spec.rung == outcome.done.rung.name
    assert artifact.spec.layers == ((1, 2) if "context_vector" in tensors else ())
    tried = [rung.name for rung in artifact.spec.calibration.rungs]
    assert tried == ["zero-shot", artifact.spec.rung]


def test_auto_tries_readouts_alone_where_few_rows_are_held_out(job: Job, tmp_path: Path) -> None:
    outcome = run(climbed(job, fit="auto", readout="auto"), tmp_path / "toy")
    tried = [trial.rung.name for trial in outcome.done.trials]
    assert tried == ["zero-shot", "bias", "head"]
    assert outcome.done.measured.rows == 12  # all are judged by, fold by fold
    assert outcome.done.state.values == {}


def test_auto_tries_every_rung_where_rows_can_tell(job: Job, tmp_path: Path) -> None:
    outcome = run(climbed(job, fit="auto", readout="auto", least_held_out=2), tmp_path / "toy")
    assert [trial.rung for trial in outcome.done.trials] == list(LADDER)
    assert outcome.done.measured.rows == 2
    done = outcome.done
    assert all(done.tensors_of(rung) for rung in LADDER[1:])
    chosen = next(trial for trial in outcome.done.trials if trial.rung == outcome.done.rung)
    assert outcome.done.measured.after == chosen.metrics
    assert chosen.excess <= chosen.standard_error


def test_what_a_rung_measures_is_what_the_task_says_of_other_rows(job: Job, tmp_path: Path) -> None:
    """`--held-out-data`: rows that are for nothing but measuring."""
    test = [row for rows in job.clients for row in rows.everything][:4]
    job = dataclasses.replace(climbed(job, fit="channels", readout="bias"), test=test)
    outcome = run(job, tmp_path / "toy")
    compared = compare(job.model, outcome.artifact, test, [], shots=0)
    assert outcome.done.measured == (compared["zero_shot"], compared["adapted"], 4)


TAILS = [(rung.readout if rung.fit == "none" else rung.fit, rung.readout) for rung in LADDER[1:]]


@pytest.mark.parametrize(("fit", "readout"), [*TAILS, ("auto", "auto")])
def test_with_extent_tail_every_rung_is_a_task_that_reads_texts_as_the_base_model_does(
    job: Job, tmp_path: Path, fit: str, readout: str
) -> None:
    test = [row for rows in job.clients for row in rows.everything][:4]
    settings = climbed(job, fit=fit, readout=readout, extent="tail", least_held_out=2, rounds=1)
    outcome = run(dataclasses.replace(settings, test=test), tmp_path / "toy")
    spec = outcome.artifact.spec
    assert not spec.adapts_text
    assert spec.extent == ("all" if spec.fit == "none" else "tail")
    compared = compare(job.model, outcome.artifact, test, [], shots=0)
    assert outcome.done.measured == (compared["zero_shot"], compared["adapted"], 4)


@pytest.mark.parametrize("readout", ["none", "bias", "head"])
def test_with_extent_tail_private_clients_fit_too(job: Job, tmp_path: Path, readout: str) -> None:
    settings = {"fit": "channels", "readout": readout, "extent": "tail", "epsilon": 8.0}
    outcome = run(climbed(job, **settings, rounds=1), tmp_path / "toy")
    assert (outcome.artifact.spec.fit, outcome.artifact.spec.extent) == ("channels", "tail")


def test_channels_are_kept_of_the_round_with_the_lowest_held_out_loss(
    job: Job, tmp_path: Path
) -> None:
    outcome = run(climbed(job, fit="channels", readout="none"), tmp_path / "toy")
    state = outcome.done.state
    assert len(state.held_out) == 3
    best = 1 + state.held_out.index(min(state.held_out))
    scales = 1 + state.values["channels"][best][:, :, 0]
    assert torch.equal(outcome.artifact.tensors["scale"], scales)
    told = outcome.done.measured.after["log_loss"]
    assert told == pytest.approx(min(state.held_out), abs=1e-5)


def test_readouts_are_the_same_whoever_holds_which_row(job: Job, tmp_path: Path) -> None:
    """One label a client among them."""
    rows = [row for part in job.clients for row in part.everything]
    by_label = [[row for row in rows if row.label == name] for name in job.task.names]
    rungs = []
    for number, parts in enumerate(([rows], [rows[::2], rows[1::2]], by_label)):
        one = dataclasses.replace(
            climbed(job, fit="head", readout="auto"), clients=[Rows(part) for part in parts]
        )
        rungs.append(run(one, tmp_path / str(number)).artifact.tensors)
    for other in rungs[1:]:
        for name, tensor in rungs[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-6)


def test_wire_bytes_worked_by_hand(job: Job, tmp_path: Path) -> None:
    # vector: 4 bytes * 3 layers * 2 sites * 64; coefficients: 4 * 3 * 2 * 2
    assert run(job, tmp_path / "toy").artifact.spec.calibration.wire_bytes == {
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
        steps = "--rounds 30 --local-steps 1 --batch-size 1 --held-out 0.2"
        return f"{paths} --fit channels {steps}".split()

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


def test_of_bare_rungs_it_is_what_is_fitted_to_the_rows_features(job: Job, tmp_path: Path) -> None:
    """`fit_task` is all there is to it: whoever has the features needs no calibration."""
    rows = [row for part in job.clients for row in part.everything]
    alone = dataclasses.replace(job, clients=[Rows(rows)])
    done = run(climbed(alone, fit="auto", readout="auto"), tmp_path / "toy").done
    features = features_of(job.model, job.task, rows, None, job.settings)
    labels = np.array(job.task.indices(rows))
    direct = fit_task([row.text for row in rows], features, labels, BARE_RUNGS)
    assert direct.rung == done.rung != ZERO_SHOT
    assert (direct.trials, direct.measured) == (done.trials, done.measured)
    assert direct.tensors.keys() == done.tensors.keys()
    assert all(torch.equal(direct.tensors[name], done.tensors[name]) for name in done.tensors)
