"""The coordinator and clients under differential privacy."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from calibration.federation.client import app as client_app
from calibration.federation.client.answers import Answers
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import FIT, tensor_record
from ifedicl_serve.errors import QuorumError
from tests.federation.conftest import SETTINGS, LoopGrid
from tests.federation.running import kinds, run


@pytest.fixture
def private(grid: LoopGrid, invitation: Invitation, tmp_path: Path) -> Invitation:
    """An invitation to clients that keep their answers, as `ifedicl client` makes them."""
    for node, owner in grid.owners.items():
        grid.owners[node] = dataclasses.replace(owner, answers=tmp_path / f"{node}.answers")
    settings = dataclasses.replace(SETTINGS, epsilon=8.0)
    return invitation.model_copy(update={"settings": settings})


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
        assert grid.app(message, node.context).content == first.content


def test_a_private_federation_that_is_run_again_spends_nothing_more(
    grid: LoopGrid, private: Invitation, tmp_path: Path
) -> None:
    """A resumed one is a new run to Flower, whose contexts are empty."""
    first = run(grid, private, tmp_path / "toy")
    for node in grid.nodes.values():
        node.forget()
    assert run(grid, private, tmp_path / "again").artifact.digest == first.artifact.digest
    other = dataclasses.replace(private.settings, seed=1)
    for node in grid.nodes.values():
        node.forget()
    asked_anew = run(grid, private.model_copy(update={"settings": other}), tmp_path / "other")
    assert not torch.equal(asked_anew.artifact.context_vector, first.artifact.context_vector)


def test_a_private_client_refuses_to_answer_again_from_other_rows(
    grid: LoopGrid, private: Invitation, clients: list[Path], tmp_path: Path
) -> None:
    run(grid, private, tmp_path / "toy")
    lines = clients[2].read_text().splitlines(keepends=True)
    clients[2].write_text("".join([*lines, lines[0]]))
    client_app._participant.cache_clear()  # as in a new process
    for node in grid.nodes.values():
        node.forget()
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
    for node in grid.nodes.values():
        node.forget()
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
    weak = dataclasses.replace(private.settings, epsilon=2.0, delta=1e-3)
    for asked, seen in (
        (private, "8 and 1e-05"),
        (invitation, "no privacy"),
        (private.model_copy(update={"settings": weak}), "2 and 0.001"),
    ):
        for node in grid.nodes.values():
            node.forget()
        with pytest.raises(QuorumError):
            run(grid, asked, tmp_path / "toy")
        reason = grid.received[-1].content["status"]["reason"]
        assert reason == f"agrees to epsilon 4 and delta 1e-05 at most, was asked for {seen}"


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_rounds_beyond_the_settings_are_refused(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, index: int
) -> None:
    run(grid, invitation, tmp_path / "toy")
    message = next(one for one in grid.sent if one.metadata.message_type == FIT)
    message.content["ask"] = ConfigRecord({"fit": "coefficients", "round": index})
    reply = grid.app(message, grid.nodes[message.metadata.dst_node_id].context)
    assert reply.content["status"]["status"] == "refused"


def test_another_invitation_in_the_same_run_is_refused(
    grid: LoopGrid, private: Invitation, tmp_path: Path
) -> None:
    """More rounds than were counted would spend more privacy than was agreed to."""
    run(grid, private, tmp_path / "toy")
    more = dataclasses.replace(private.settings, rounds=100)
    message = next(one for one in grid.sent if one.metadata.message_type == FIT)
    message.content["ask"] = ConfigRecord({"fit": "coefficients", "round": 50})
    message.content["invitation"] = private.model_copy(update={"settings": more}).to_record()
    reply = grid.app(message, grid.nodes[message.metadata.dst_node_id].context)
    reason = "was sent another invitation than before in the same run"
    assert reply.content["status"] == ConfigRecord({"status": "refused", "reason": reason})


@pytest.mark.parametrize(
    "kind", ["evaluate.held_out", "query.statistics", "query.losses", "evaluate.judge"]
)
def test_a_private_client_tells_no_sums(
    grid: LoopGrid, private: Invitation, invitation: Invitation, tmp_path: Path, kind: str
) -> None:
    """Whatever else it is told with the question."""
    settings = dataclasses.replace(SETTINGS, fit="channels", readout="head")
    run(grid, invitation.model_copy(update={"settings": settings}), tmp_path / "toy")
    told = {name: record for one in grid.sent for name, record in one.content.items()}
    message = next(one for one in grid.sent if one.metadata.message_type == kind)
    node = grid.nodes[message.metadata.dst_node_id]
    node.forget()
    channels = dataclasses.replace(private.settings, fit="channels", readout="none")
    asked = private.model_copy(update={"settings": channels})
    values = message.content["ask"].get("values", told["reading.channels"]["values"])
    others = {k for k in told if k.startswith("channels.")} - {f"channels.{values}"}
    content = {**told, **message.content, "invitation": asked.to_record()}
    message.content = RecordDict({k: v for k, v in content.items() if k not in others})
    status = grid.app(message, node.context).content["status"]
    reason = "tells no sums of its rows: they would not be private"
    assert status == ConfigRecord({"status": "refused", "reason": reason})
