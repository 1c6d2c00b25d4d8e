"""The coordinator and clients under differential privacy."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from calibration.federation.client import app as client_app
from calibration.federation.client.answers import Answers
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import FIT, array_record, tensor_record
from calibration.model.hooked import HookedModel
from calibration.privacy import readout as private_readout
from calibration.privacy.readout import PrivateReader, PrivateReaders
from calibration.readout.noisy import STEPS, NoisySums, class_means, fit_noisy_readout
from calibration.stages.read import read_privately
from ifedicl_serve.errors import QuorumError
from ifedicl_serve.fitting.directions import Directions
from tests.federation.conftest import LoopGrid
from tests.federation.running import asking, held, kinds, run
from tests.federation.test_federate_faults import array, nan, with_arrays


@pytest.fixture
def private(grid: LoopGrid, invitation: Invitation, tmp_path: Path) -> Invitation:
    """An invitation to clients that keep their answers, as `ifedicl client` makes them."""
    for node, owner in grid.owners.items():
        grid.owners[node] = dataclasses.replace(owner, answers=tmp_path / f"{node}.answers")
    return asking(invitation, epsilon=8.0)


def test_a_private_client_sends_no_losses_no_label_counts_and_no_metrics(
    grid: LoopGrid, private: Invitation, tmp_path: Path
) -> None:
    outcome = run(grid, private, tmp_path / "toy")
    assert outcome.done.measured.rows == 0
    assert outcome.artifact.spec.calibration.settings["epsilon"] == 8.0
    assert kinds(grid) == {"query.join", "train.extract", "train.fit"}
    for reply in grid.received:
        for name, value in reply.content["numbers"].items():
            assert value == [] or name in {"client", "examples", "held_out", "count"}


def test_a_private_client_gives_the_same_answer_when_asked_again(
    grid: LoopGrid, private: Invitation, tmp_path: Path
) -> None:
    """Every new answer would spend more of its budget than the accountant counted."""
    run(grid, private, tmp_path / "toy")
    for message in [one for one in grid.sent if one.metadata.message_type != "query.join"]:
        node = grid.nodes[message.metadata.dst_node_id]
        first = next(
            reply
            for reply in grid.received
            if reply.metadata.reply_to_message_id == message.metadata.message_id
        )
        if message.metadata.message_type == FIT:  # a curious coordinator asks about others
            node.forget()
            message.content["invitation"] = private.to_record()
            message.content["vector"] = tensor_record(torch.rand(3, 2, 64), "fp32")
            values = message.content["ask"]["values"]
            message.content[f"coefficients.{values}"] = tensor_record(torch.rand(3, 2, 2), "fp32")
        assert grid.answer(message) == first.content


def test_a_private_federation_that_is_run_again_spends_nothing_more(
    grid: LoopGrid, private: Invitation, tmp_path: Path
) -> None:
    """A resumed one is a new run to Flower, whose contexts are empty."""
    first = run(grid, private, tmp_path / "toy")
    grid.forget()
    assert run(grid, private, tmp_path / "again").artifact.digest == first.artifact.digest
    grid.forget()
    asked_anew = run(grid, asking(private, seed=1), tmp_path / "other")
    assert not torch.equal(asked_anew.artifact.context_vector, first.artifact.context_vector)


def test_a_private_client_refuses_to_answer_again_from_other_rows(
    grid: LoopGrid, private: Invitation, clients: list[Path], tmp_path: Path
) -> None:
    run(grid, private, tmp_path / "toy")
    lines = clients[2].read_text().splitlines(keepends=True)
    clients[2].write_text("".join([*lines, lines[0]]))
    client_app._participant.cache_clear()  # as in a new process
    grid.forget()
    outcome = run(grid, private, tmp_path / "again")
    assert outcome.done.state.clients == [0, 1]
    (reason,) = {
        str(reply.content["status"]["reason"])
        for reply in grid.received
        if reply.content["status"]["status"] == "refused"
    }
    assert reason.startswith("has answered this before, with other rows")


def test_a_private_answer_that_cannot_be_read_is_not_computed_again(
    grid: LoopGrid, private: Invitation, tmp_path: Path
) -> None:
    run(grid, private, tmp_path / "toy")
    (answer,) = (tmp_path / "12.answers").rglob("extract.binpb")
    answer.write_bytes(b"damaged")
    grid.forget()
    assert run(grid, private, tmp_path / "again").done.state.clients == [0, 1]
    assert answer.read_bytes() == b"damaged"


def test_two_runs_that_ask_at_once_get_one_answer(private: Invitation, tmp_path: Path) -> None:
    computed = []

    def answer() -> RecordDict:
        time.sleep(0.1)  # the other one asks meanwhile
        computed.append(len(computed))
        return RecordDict({"numbers": MetricRecord({"count": len(computed)})})

    def ask(_: int) -> RecordDict:
        return Answers(tmp_path / "answers", private, []).once("extract", answer)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, range(2))
    assert first == second and computed == [0]


def test_an_owner_refuses_less_privacy_than_it_agreed_to(
    grid: LoopGrid, private: Invitation, invitation: Invitation, tmp_path: Path
) -> None:
    for node, owner in grid.owners.items():
        grid.owners[node] = dataclasses.replace(owner, max_epsilon=4.0)
    for asked, seen in (
        (private, "8 and 1e-05"),
        (invitation, "no privacy"),
        (asking(private, epsilon=2.0, delta=1e-3), "2 and 0.001"),
    ):
        grid.forget()
        with pytest.raises(QuorumError):
            run(grid, asked, tmp_path / "toy")
        reason = grid.received[-1].content["status"]["reason"]
        assert reason == f"agrees to epsilon 4 and delta 1e-05 at most, was asked for {seen}"


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_rounds_beyond_the_settings_are_refused(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, index: int
) -> None:
    run(grid, invitation, tmp_path / "toy")
    message = grid.first(FIT)
    message.content["ask"] = ConfigRecord({"fit": "coefficients", "round": index})
    reply = grid.answer(message)
    assert reply["status"]["status"] == "refused"


def test_another_invitation_in_the_same_run_is_refused(
    grid: LoopGrid, private: Invitation, tmp_path: Path
) -> None:
    """More rounds than were counted would spend more privacy than was agreed to."""
    run(grid, private, tmp_path / "toy")
    message = grid.first(FIT)
    message.content["ask"] = ConfigRecord({"fit": "coefficients", "round": 50})
    message.content["invitation"] = asking(private, rounds=100).to_record()
    reply = grid.answer(message)
    reason = "was sent another invitation than before in the same run"
    assert reply["status"] == ConfigRecord({"status": "refused", "reason": reason})


@pytest.mark.parametrize(
    "kind", ["evaluate.held_out", "query.statistics", "query.losses", "evaluate.judge"]
)
def test_a_private_client_tells_no_sums(
    grid: LoopGrid, private: Invitation, invitation: Invitation, tmp_path: Path, kind: str
) -> None:
    """Whatever else it is told with the question."""
    run(grid, asking(invitation, fit="channels", readout="head"), tmp_path / "toy")
    told = {name: record for one in grid.sent for name, record in one.content.items()}
    message = grid.first(kind)
    node = grid.nodes[message.metadata.dst_node_id]
    node.forget()
    asked = asking(private, fit="channels", readout="none")
    values = message.content["ask"].get("values", told["reading.channels"]["values"])
    others = {k for k in told if k.startswith("channels.")} - {f"channels.{values}"}
    content = {**told, **message.content, "invitation": asked.to_record()}
    message.content = RecordDict({k: v for k, v in content.items() if k not in others})
    status = grid.answer(message)["status"]
    reason = "tells no exact sums of its rows: they would not be private"
    assert status == ConfigRecord({"status": "refused", "reason": reason})


# -- readouts


def with_readout(private: Invitation, **choice: object) -> Invitation:
    return asking(private, **{"readout": "auto", **choice})


@pytest.fixture
def head(private: Invitation) -> Invitation:
    return with_readout(private, fit="head")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise on what readouts are fitted to."""

    def unchanged(values: torch.Tensor, deviation: float, randomness: object) -> torch.Tensor:
        return values.float()

    monkeypatch.setattr(private_readout, "noised", unchanged)


@pytest.mark.parametrize("kind", ["bias", "head"])
def test_without_noise_it_is_the_readout_of_one_process(
    grid: LoopGrid,
    private: Invitation,
    llama: HookedModel,
    tmp_path: Path,
    silent: None,
    kind: str,
) -> None:
    invitation = with_readout(private, fit=kind)
    outcome = run(grid, invitation, tmp_path / "toy")
    rows = [owner.rows(invitation.task).train for owner in grid.owners.values()]
    settings, task = invitation.settings, invitation.task
    read = [read_privately(llama, task, part, None, settings) for part in rows]
    here = PrivateReaders([PrivateReader(one, settings) for one in read])
    told = here.statistics()
    here.learn(told)
    expected = fit_noisy_readout(here, told, kind)
    assert held(outcome).keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(held(outcome)[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("choice", "rung", "fitted"),
    [
        ({"fit": "bias"}, "bias", set()),
        ({"fit": "head"}, "head", set()),
        (
            {"fit": "coefficients", "readout": "head"},
            "coefficients+head",
            {"train.extract", "train.fit"},
        ),
    ],
)
def test_a_private_readout_is_fitted_from_noisy_sums_and_gradients_alone(
    grid: LoopGrid, private: Invitation, tmp_path: Path, choice: dict, rung: str, fitted: set[str]
) -> None:
    outcome = run(grid, with_readout(private, **choice), tmp_path / "toy")
    assert outcome.artifact.spec.rung == rung
    assert outcome.artifact.spec.calibration.client_sizes == (4, 3, 2)
    assert all(torch.isfinite(tensor).all() for tensor in held(outcome).values())
    assert kinds(grid) == {"query.join", "query.noisy_statistics", "query.gradient"} | fitted
    asked = [one.metadata.message_type for one in grid.sent]
    assert asked.count("query.noisy_statistics") == 3
    assert asked.count("query.gradient") == 3 * STEPS


def test_a_private_readout_that_is_run_again_spends_nothing_more(
    grid: LoopGrid, head: Invitation, tmp_path: Path
) -> None:
    first = run(grid, head, tmp_path / "toy")
    grid.forget()
    assert run(grid, head, tmp_path / "again").artifact.digest == first.artifact.digest
    curious = grid.first("query.gradient")
    answers = []
    for value in (0.0, 5.0):
        theta = np.full(3 + len(head.labels), value)
        curious.content["asked"] = array_record({"theta": theta})
        answers.append(grid.answer(curious))
    assert answers[0] == answers[1]


def test_a_private_client_learns_the_noisy_sums_once(
    grid: LoopGrid, head: Invitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each of its gradients."""
    learnt: list[NoisySums] = []

    def counted(told: NoisySums) -> Directions:
        learnt.append(told)
        return class_means(told)

    monkeypatch.setattr(private_readout, "class_means", counted)
    run(grid, head, tmp_path / "toy")
    assert len(learnt) == len(grid.nodes)


@pytest.mark.parametrize("step", [-1, STEPS, True, "1"])
def test_steps_beyond_those_that_were_counted_are_refused(
    grid: LoopGrid, head: Invitation, tmp_path: Path, step: object
) -> None:
    run(grid, head, tmp_path / "toy")
    message = grid.first("query.gradient")
    message.content["ask"] = ConfigRecord({"step": step})
    reply = grid.answer(message)
    reason = f"was asked for step {step!r}, of {STEPS}"
    assert reply["status"] == ConfigRecord({"status": "refused", "reason": reason})


@pytest.mark.parametrize("kind", ["query.noisy_statistics", "query.gradient"])
def test_noisy_sums_that_are_none_of_the_tasks_are_refused(
    grid: LoopGrid, head: Invitation, private: Invitation, tmp_path: Path, kind: str
) -> None:
    """Of a private task without a readout: its budget has no part for them."""
    run(grid, head, tmp_path / "toy")
    message = grid.first(kind)
    node = grid.nodes[message.metadata.dst_node_id]
    node.forget()
    message.content["invitation"] = private.to_record()
    reply = grid.answer(message)
    reason = "was asked for noisy sums, which are none of the task's"
    assert reply["status"] == ConfigRecord({"status": "refused", "reason": reason})


GARBAGE = {
    "NaN sums": ("query.noisy_statistics", lambda c: nan(c, "class_sums")),
    "more rows": ("query.noisy_statistics", lambda c: with_arrays(c, rows=array(c, "rows") + 1)),
    "no noise": (
        "query.noisy_statistics",
        lambda c: with_arrays(c, variances=0 * array(c, "variances")),
    ),
    "no reference": (
        "query.noisy_statistics",
        lambda c: with_arrays(c, reference=0 * array(c, "reference")),
    ),
    "absurd counts": (
        "query.noisy_statistics",
        lambda c: with_arrays(c, counts=array(c, "counts") + np.float32(1e20)),
    ),
    "absurd gradient": (
        "query.gradient",
        lambda c: with_arrays(c, gradient=array(c, "gradient") + 1e300),
    ),
    "other labels": (
        "query.gradient",
        lambda c: with_arrays(c, gradient=array(c, "gradient")[:5]),
    ),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_noisy_garbage_costs_its_sender_its_rows(
    grid: LoopGrid, head: Invitation, tmp_path: Path, name: str
) -> None:
    spoiled, spoil = GARBAGE[name]
    grid.spoil(12, spoiled, spoil)
    outcome = run(grid, head, tmp_path / "toy")
    assert all(torch.isfinite(tensor).all() for tensor in held(outcome).values())
    asked = [one.metadata.message_type for one in grid.sent if one.metadata.dst_node_id == 12]
    assert asked[-1] == spoiled
