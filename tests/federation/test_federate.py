"""The coordinator against clients that behave, die, forget, lie and are poisoned."""

import dataclasses
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict

from calibration.data.examples import Example, split_held_out
from calibration.federation.client import app as client_app
from calibration.federation.client.answers import Answers
from calibration.federation.coordinator import fleet
from calibration.federation.coordinator.app import LoggedProgress
from calibration.federation.coordinator.checks import outsized, refuse_coefficients
from calibration.federation.coordinator.federate import federate
from calibration.federation.coordinator.fleet import Terms
from calibration.federation.wire.messages import FIT, Invitation, not_ok, tensor_record
from calibration.model.hooked import HookedModel
from calibration.result.outcome import Outcome
from calibration.result.report import write_report
from calibration.run.local import Job, calibrate_here
from calibration.run.progress import Progress
from calibration.state import StateStore, fingerprint
from calibration.task import TaskDefinition
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.errors import DataError, FederationError, QuorumError
from tests.federation.conftest import SETTINGS, LoopGrid

TERMS = Terms(clients=3, quorum=2, wait=0.5, timeout=0.5)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "POLL_SECONDS", 0.01)


def run(
    grid: LoopGrid,
    invitation: Invitation,
    out: Path,
    terms: Terms = TERMS,
    progress: Progress | None = None,
) -> Outcome:
    store = StateStore(out.parent / f".{out.name}", fingerprint(invitation.model_dump(mode="json")))
    return federate(invitation, terms, out, grid, store, progress or Progress())


def tensors(outcome: Outcome) -> tuple[torch.Tensor, torch.Tensor]:
    return outcome.artifact.context_vector, outcome.artifact.coefficients


# -- equal to a calibration in one process


def test_equals_a_calibration_in_one_process(
    grid: LoopGrid,
    invitation: Invitation,
    llama: HookedModel,
    task: TaskDefinition,
    examples: list[Example],
    tmp_path: Path,
) -> None:
    federated = run(grid, invitation, tmp_path / "federated")
    parts = [examples[:5], examples[5:9], examples[9:]]
    splits = [split_held_out(part, 0.2, SETTINGS.seed) for part in parts]
    held_out = [row for _, rows in splits for row in rows]
    trains = [train for train, _ in splits]
    job = Job(llama, invitation.model, task, trains, held_out, SETTINGS)
    local = calibrate_here(job, tmp_path / "local", StateStore(tmp_path / "s", "x"), Progress())
    for ours, theirs in zip(tensors(federated), tensors(local), strict=True):
        assert torch.equal(ours, theirs)
    assert federated.state.losses == local.state.losses
    record = federated.artifact.spec.calibration
    assert record.client_sizes == local.artifact.spec.calibration.client_sizes == (4, 3, 2)
    assert record.round_losses == local.artifact.spec.calibration.round_losses != ()
    assert record.metrics["held_out"] == len(held_out) == 3
    for name in ("accuracy", "log_loss"):
        assert federated.after[name] == pytest.approx(local.after[name], abs=1e-5)


@pytest.mark.parametrize("wire", ["fp16", "int8"])
def test_clients_fit_to_the_vector_that_the_artifact_holds(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, wire: str
) -> None:
    """Rounding on the way must not leave coefficients that belong to another vector."""
    outcome = run(grid, invitation.model_copy(update={"wire": wire}), tmp_path / "toy")
    (sent,) = {
        message.content["vector"]["values"].numpy().tobytes()
        for message in grid.sent
        if "vector" in message.content
    }
    vector = outcome.artifact.context_vector.numpy()
    if wire == "fp16":
        assert vector.astype(np.float16).tobytes() == sent
    else:
        assert np.abs(vector / np.abs(vector).max(-1, keepdims=True) * 127).max() <= 127.01
    assert outcome.artifact.spec.calibration.settings["wire"] == wire


# -- killed and resumed


class Killed(Exception):
    """Stands for a kill after a round has been saved."""


class KilledIn(Progress):
    def __init__(self, round_index: int) -> None:
        super().__init__()
        self.round_index = round_index

    def fitting(self, client: int, round_index: int):
        if round_index == self.round_index:
            raise Killed
        return super().fitting(client, round_index)


@pytest.mark.parametrize("round_index", [0, 2])
def test_a_killed_coordinator_ends_with_the_same_artifact(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, round_index: int
) -> None:
    undisturbed = run(grid, invitation, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        run(grid, invitation, tmp_path / "toy", progress=KilledIn(round_index))
    for node in grid.nodes.values():
        node.forget()  # a new run on the SuperLink has a new context on every client
    resumed = run(grid, invitation, tmp_path / "toy")
    assert resumed.artifact.digest == undisturbed.artifact.digest
    assert not (tmp_path / ".toy").exists()


def test_a_state_of_another_federation_is_refused(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(grid, invitation, tmp_path / "toy", progress=KilledIn(1))
    other = dataclasses.replace(SETTINGS, seed=1)
    with pytest.raises(DataError, match="made by a calibration with other settings"):
        run(grid, invitation.model_copy(update={"settings": other}), tmp_path / "toy")


def test_a_restarted_client_is_told_everything_again(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    undisturbed = run(grid, invitation, tmp_path / "undisturbed")

    class Restart(Progress):
        def fitting(self, client: int, round_index: int):
            grid.nodes[11].forget()
            return super().fitting(client, round_index)

    for node in grid.nodes.values():
        node.forget()
    restarted = run(grid, invitation, tmp_path / "toy", progress=Restart())
    assert restarted.artifact.digest == undisturbed.artifact.digest


# -- clients that lose their own contribution only


def test_a_client_that_dies_loses_its_own_rounds(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    class Dies(Progress):
        def fitting(self, client: int, round_index: int):
            if round_index == 1:
                grid.nodes.pop(12, None)
            return super().fitting(client, round_index)

    outcome = run(grid, invitation, tmp_path / "toy", progress=Dies())
    assert [[len(steps) for steps in one] for one in outcome.state.losses] == [
        [3, 3, 3],
        [3, 3, 0],
        [3, 3, 0],
    ]


def test_too_few_answers_are_an_error_and_the_state_stays(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    grid.nodes[10].tamper = lambda kind, content: None if kind == FIT else content
    terms = Terms(clients=3, quorum=3, wait=0.5, timeout=0.1)
    with pytest.raises(QuorumError, match="2 clients answered train.fit, 3 are needed"):
        run(grid, invitation, tmp_path / "toy", terms)
    assert not (tmp_path / "toy").exists()
    grid.nodes[10].tamper = lambda kind, content: content
    assert run(grid, invitation, tmp_path / "toy", terms).state.rounds_done == 3


def test_warnings_log_and_report_name_clients_by_their_numbers(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The position of an answer is no client's number when another client is missing."""
    del grid.nodes[10]
    for node in grid.nodes.values():
        node.tamper = lambda kind, content: (
            with_numbers(content, losses=[1.5] * 3) if kind == FIT else content
        )
    progress = LoggedProgress(rounds=3)
    with caplog.at_level("INFO", logger="flwr"):
        outcome = run(grid, invitation, tmp_path / "toy", progress=progress)
    named = [re.search(r"loss of client (\d) did not fall", sign) for sign in outcome.warnings]
    assert [one[1] for one in named if one] == ["1", "2"]
    assert "round 3/3: mean loss of client 1: 1.500, client 2: 1.500" in caplog.text
    report = write_report(outcome, progress.seconds, tmp_path / "report").read_text()
    assert "| round | client 1 | client 2 |" in report


def test_too_few_clients_are_an_error(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    del grid.nodes[10], grid.nodes[11]
    with pytest.raises(QuorumError, match="1 clients accepted the invitation, 2 are needed"):
        run(grid, invitation, tmp_path / "toy")


def with_numbers(content: RecordDict, **changed) -> RecordDict:
    numbers = MetricRecord({**content["numbers"], **changed})
    return RecordDict({**content, "numbers": numbers})


def with_values(content: RecordDict, name: str, values: np.ndarray) -> RecordDict:
    return RecordDict({**content, name: ArrayRecord({"values": Array(values)})})


def nan(content: RecordDict, name: str) -> RecordDict:
    return with_values(content, name, content[name]["values"].numpy() * np.float32(math.nan))


GARBAGE = {
    "NaN vector": ("train.extract", lambda c: nan(c, "vector")),
    "wrong shape": ("train.extract", lambda c: with_values(c, "vector", np.zeros(3, np.float32))),
    "float64": ("train.extract", lambda c: with_values(c, "vector", np.zeros((3, 2, 64)))),
    "no tensor": ("train.extract", lambda c: RecordDict({k: c[k] for k in ("status", "numbers")})),
    "absurd vector": (
        "train.extract",
        lambda c: with_values(c, "vector", c["vector"]["values"].numpy() * np.float32(1000)),
    ),
    "no bytes": (
        "train.extract",
        lambda c: RecordDict(
            {
                **c,
                "vector": ArrayRecord(
                    {"values": Array("float32", (3, 2, 64), "numpy.ndarray", b"")}
                ),
            }
        ),
    ),
    "too many bytes": (
        "train.extract",
        lambda c: with_values(c, "vector", np.zeros((1000, 1000), np.float32)),
    ),
    "more examples than announced": ("train.extract", lambda c: with_numbers(c, count=5)),
    "no examples": ("train.extract", lambda c: with_numbers(c, count=0)),
    "half an example": ("train.extract", lambda c: with_numbers(c, count=1.5)),
    "no status": ("train.extract", lambda c: RecordDict()),
    "other status": ("train.extract", lambda c: not_ok("fine", "")),
    "refusal": ("train.extract", lambda c: not_ok("refused", "is busy")),
    "crash": ("train.extract", lambda c: Error(code=1, reason="ClientApp crashed")),
    "silence": ("train.extract", lambda c: None),
    "NaN coefficients": ("train.fit", lambda c: nan(c, "coefficients")),
    "absurd coefficients": (
        "train.fit",
        lambda c: with_values(c, "coefficients", c["coefficients"]["values"].numpy() + 1000),
    ),
    "untouched sites": (
        "train.fit",
        lambda c: with_values(c, "coefficients", np.full((3, 2, 2), 0.5, np.float32)),
    ),
    "NaN loss": ("train.fit", lambda c: with_numbers(c, losses=[math.nan] * 3)),
    "absurd losses": ("train.fit", lambda c: with_numbers(c, losses=[1e308] * 3)),
    "negative losses": ("train.fit", lambda c: with_numbers(c, losses=[-1.0] * 3)),
    "too few losses": ("train.fit", lambda c: with_numbers(c, losses=[1.0] * 2)),
    "too many losses": ("train.fit", lambda c: with_numbers(c, losses=[1.0] * 4)),
    "one loss": ("train.fit", lambda c: with_numbers(c, losses=1.0)),
    "label counts of nobody": ("train.extract", lambda c: with_numbers(c, label_counts=[0] * 4)),
    "fewer label counts": ("train.extract", lambda c: with_numbers(c, label_counts=[1, 1])),
    "more label counts": ("train.extract", lambda c: with_numbers(c, label_counts=[1, 1, 0, 0, 0])),
    "negative label counts": (
        "train.extract",
        lambda c: with_numbers(c, label_counts=[3, -1, 0, 0]),
    ),
    "half label counts": ("train.extract", lambda c: with_numbers(c, label_counts=[0.5] * 4)),
    "negative client": ("query.join", lambda c: with_numbers(c, client=-1)),
    "taken number": ("query.join", lambda c: with_numbers(c, client=0)),
    "unknown field": ("query.join", lambda c: with_numbers(c, text=1)),
    "NaN metrics": ("evaluate.measure", lambda c: with_numbers(c, adapted_accuracy=math.nan)),
    "absurd log-loss": ("evaluate.measure", lambda c: with_numbers(c, adapted_log_loss=1e308)),
    "accuracy of 5": ("evaluate.measure", lambda c: with_numbers(c, zero_shot_accuracy=5.0)),
    "negative log-loss": ("evaluate.measure", lambda c: with_numbers(c, zero_shot_log_loss=-1.0)),
    "no accuracy": ("evaluate.measure", lambda c: RecordDict({**c, "numbers": MetricRecord({})})),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_costs_its_sender_alone(
    grid: LoopGrid,
    invitation: Invitation,
    tmp_path: Path,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoiled, spoil = GARBAGE[name]
    grid.nodes[12].tamper = lambda kind, content: spoil(content) if kind == spoiled else content
    terms = Terms(clients=3, quorum=2, wait=0.3, timeout=0.3)
    outcome = run(grid, invitation, tmp_path / "toy", terms)
    assert load_artifact(tmp_path / "toy").digest == outcome.artifact.digest
    expected = {"query.join": 2, "train.extract": 2, "train.fit": 3, "evaluate.measure": 3}
    assert len(outcome.state.federation["clients"]) == expected[spoiled]
    fitted = [bool(one_round[-1]) for one_round in outcome.state.losses]
    assert fitted == [spoiled != "train.fit"] * 3  # the last client's, if it is there
    rows = outcome.artifact.spec.calibration.metrics["held_out"]
    assert rows == (3 if spoiled == "train.fit" else 2)
    assert torch.isfinite(outcome.artifact.context_vector).all()


def test_a_vector_that_overflows_is_left_out_of_two(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    """Two cannot outvote each other, but this one would end every round with NaN."""
    del grid.nodes[12]
    grid.nodes[11].tamper = lambda kind, content: (
        with_values(content, "vector", np.full((3, 2, 64), 1e38, np.float32))
        if kind == "train.extract"
        else content
    )
    outcome = run(grid, invitation, tmp_path / "toy", Terms(2, 1, wait=0.3, timeout=0.3))
    assert outcome.state.federation["clients"] == [0]


def test_another_model_is_refused_with_the_reason(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = invitation.model.model_copy(update={"tokenizer_digest": "0" * 64})
    with caplog.at_level("ERROR", logger="flwr"), pytest.raises(QuorumError):
        run(grid, invitation.model_copy(update={"model": other}), tmp_path / "toy")
    assert (
        grid.received[0]
        .content["status"]["reason"]
        .startswith("runs another base model (tokenizer digest 0000000000000000")
    )


def test_a_client_whose_labels_are_unknown_refuses_without_naming_them(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    labels = invitation.labels[:2]
    with pytest.raises(QuorumError):
        run(grid, invitation.model_copy(update={"labels": labels}), tmp_path / "toy")
    reasons = {reply.content["status"]["reason"] for reply in grid.received}
    assert reasons == {"cannot use its data; its own log says why"}


# -- pure parts


def test_outsized_needs_a_majority_to_compare_with() -> None:
    vectors = {0: torch.ones(4), 1: torch.ones(4) * 2, 2: torch.ones(4) * 30}
    assert outsized(vectors) == [2]
    assert outsized({1: vectors[1], 2: vectors[2]}) == []


def test_coefficients_within_reason_pass() -> None:
    untouched = torch.tensor([[True, False]])
    refuse_coefficients(torch.tensor([[[0.0, 1.0], [3.0, -2.0]]]), untouched)
    with pytest.raises(FederationError, match="expected within 100"):
        refuse_coefficients(torch.tensor([[[0.0, 1.0], [101.0, 1.0]]]), untouched)
    with pytest.raises(FederationError, match="does not adapt"):
        refuse_coefficients(torch.tensor([[[0.1, 1.0], [3.0, -2.0]]]), untouched)


@pytest.mark.parametrize(("clients", "quorum"), [(3, 0), (3, 4)])
def test_a_quorum_out_of_reach_is_refused(clients: int, quorum: int) -> None:
    with pytest.raises(FederationError, match=f"quorum is {quorum}"):
        Terms(clients, quorum)


def test_messages_hold_no_text_and_no_token_id(
    grid: LoopGrid,
    invitation: Invitation,
    examples: list[Example],
    llama: HookedModel,
    tmp_path: Path,
) -> None:
    """Everything a client ever sent, as the records it is made of."""
    run(grid, invitation, tmp_path / "toy")
    assert {reply.metadata.message_type for reply in grid.received} == {
        "query.join",
        "train.extract",
        "train.fit",
        "evaluate.measure",
    }
    allowed = {"client", "examples", "held_out", "count", "label_counts", "losses"}
    for reply in grid.received:
        content = reply.content
        assert set(content) <= {"status", "numbers", "vector", "coefficients"}
        assert content["status"] == ConfigRecord({"status": "ok"})
        for name, value in content["numbers"].items():
            assert name in allowed or name.endswith(("accuracy", "log_loss", "macro_f1"))
            assert isinstance(value, int | float | list)
        for record in content.array_records.values():
            assert set(record) == {"values"}
            assert record["values"].numpy().shape in {(3, 2, 64), (3, 2, 2)}
        wire = b"".join(part.deflate() for part in parts_of(content))
        for example in examples:
            assert example.text.encode() not in wire
            ids = llama.tokenizer(example.text)["input_ids"]
            for width in (np.int16, np.int32, np.int64):
                assert np.array(ids[:4], width).tobytes() not in wire


def parts_of(part):
    yield part
    for child in (part.children or {}).values():
        yield from parts_of(child)


# -- differential privacy


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
    assert outcome.before == outcome.after == {}
    assert outcome.artifact.spec.calibration.settings["epsilon"] == 8.0
    for reply in grid.received:
        assert reply.metadata.message_type != "evaluate.measure"
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
        if message.metadata.message_type == FIT:
            coefficients = torch.rand(3, 2, 2)  # a curious coordinator asks about others
            message.content["coefficients"] = tensor_record(coefficients, "fp32")
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
    assert outcome.state.clients == [0, 1]
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
    assert run(grid, private, tmp_path / "again").state.clients == [0, 1]
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
    message.content["round"] = ConfigRecord({"index": index})
    reply = grid.app(message, grid.nodes[message.metadata.dst_node_id].context)
    assert reply.content["status"]["status"] == "refused"


def test_another_invitation_in_the_same_run_is_refused(
    grid: LoopGrid, private: Invitation, tmp_path: Path
) -> None:
    """More rounds than were counted would spend more privacy than was agreed to."""
    run(grid, private, tmp_path / "toy")
    more = dataclasses.replace(private.settings, rounds=100)
    message = next(one for one in grid.sent if one.metadata.message_type == FIT)
    message.content["round"] = ConfigRecord({"index": 50})
    message.content["invitation"] = private.model_copy(update={"settings": more}).to_record()
    reply = grid.app(message, grid.nodes[message.metadata.dst_node_id].context)
    reason = "was sent another invitation than before in the same run"
    assert reply.content["status"] == ConfigRecord({"status": "refused", "reason": reason})
