"""Readouts over messages: the same for every partition of the same rows, and lies about sums."""

import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from calibration import ladder
from calibration.data.examples import Example, split_held_out
from calibration.data.rows import Rows
from calibration.federation.client.participant import Owner, Participant
from calibration.federation.coordinator.fleet import Terms
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import array_record
from calibration.model.hooked import HookedModel
from calibration.run.local import Job
from calibration.task import TaskDefinition
from ifedicl_serve.errors import QuorumError
from ifedicl_serve.fitting import reader
from ifedicl_serve.fitting.directions import Directions, directions
from ifedicl_serve.fitting.fit import fit_readouts, readout_tensors
from ifedicl_serve.fitting.folds import FOLDS
from ifedicl_serve.fitting.reader import Readers
from ifedicl_serve.fitting.rungs import Rung
from ifedicl_serve.fitting.statistics import Statistics
from tests.federation.conftest import LoopGrid, Tamper
from tests.federation.running import asking, held, kinds, run, run_here
from tests.federation.test_federate_faults import array, nan, with_arrays


@pytest.fixture
def head(invitation: Invitation) -> Invitation:
    return asking(invitation, fit="head", readout="auto")


@pytest.fixture
def rows(task: TaskDefinition) -> list[Example]:
    """Forty, whose texts say their labels."""
    names = [task.names[row % len(task.names)] for row in range(40)]
    return [Example(f"{name}, number {row}", name) for row, name in enumerate(names)]


def grid_of(parts: Sequence[Sequence[Example]], model: Path, folder: Path) -> LoopGrid:
    owners = {}
    for number, part in enumerate(parts):
        path = folder / f"part-{number}.jsonl"
        path.write_text("".join(json.dumps(asdict(example)) + "\n" for example in part))
        owners[number] = Owner(number, str(model), path)
    return LoopGrid(owners)


def test_label_rows_are_the_same_however_the_rows_are_split(
    head: Invitation, rows: list[Example], llama_folder: Path, tmp_path: Path
) -> None:
    """Held by one, shared out, and with one label a client."""
    labels = head.task.names
    splits = [
        [rows],
        [rows[:7], rows[7:20], rows[20:]],
        [[row for row in rows if row.label == label] for label in labels],
    ]
    found = []
    for number, parts in enumerate(splits):
        (folder := tmp_path / str(number)).mkdir()
        terms = Terms(len(parts), len(parts), wait=5, timeout=5)
        outcome = run(grid_of(parts, llama_folder, folder), head, folder / "toy", terms)
        assert outcome.artifact.spec.rung == "head"
        assert outcome.done.measured.rows == len(rows)  # out of fold, as nothing else is fitted
        found.append(held(outcome))
    assert found[0]["label_rows"].abs().max() > 0
    for other in found[1:]:
        for name, expected in found[0].items():
            torch.testing.assert_close(
                other[name], expected, rtol=1e-5, atol=float(1e-5 * expected.abs().max())
            )


def test_clients_of_one_label_or_without_held_out_rows_choose_the_rung_that_one_process_does(
    invitation: Invitation,
    rows: list[Example],
    llama: HookedModel,
    llama_folder: Path,
    task: TaskDefinition,
    tmp_path: Path,
) -> None:
    parts = [[row for row in rows if row.label == label] for label in task.names]
    grid = grid_of(parts, llama_folder, tmp_path)
    grid.owners[1] = dataclasses.replace(grid.owners[1], held_out=0.0)
    asked = asking(invitation, fit="auto", readout="auto", least_held_out=1)
    terms = Terms(len(parts), len(parts), wait=5, timeout=5)
    federated = run(grid, asked, tmp_path / "federated", terms)
    split = [
        Rows(*split_held_out(part, grid.owners[number].held_out, asked.settings.seed))
        for number, part in enumerate(parts)
    ]
    job = Job(llama, invitation.model, task, split, [], asked.settings)
    local = run_here(job, tmp_path / "local")
    assert len(local.done.trials) == len(ladder.LADDER)
    assert federated.done.trials == local.done.trials
    assert federated.artifact.spec.rung == local.artifact.spec.rung
    for name, tensor in held(local).items():
        assert torch.equal(held(federated)[name], tensor)


def test_a_client_that_holds_out_nothing_takes_part(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    grid.owners[12] = dataclasses.replace(grid.owners[12], held_out=0.0)
    outcome = run(grid, asking(invitation, fit="channels", readout="bias"), tmp_path / "toy")
    assert outcome.artifact.spec.rung == "channels+bias"
    assert outcome.artifact.spec.calibration.client_sizes == (4, 3, 3)
    assert outcome.done.measured.rows == 2
    assert {reply.content["status"]["status"] for reply in grid.received} == {"ok"}


def test_rows_that_only_a_lost_client_held_out_are_missed_aloud(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    for node in (10, 11):
        grid.owners[node] = dataclasses.replace(grid.owners[node], held_out=0.0)
    grid.nodes[12].tamper = lambda kind, content: None if kind == "train.extract" else content
    with pytest.raises(QuorumError, match="no client that answered evaluate.held_out holds out"):
        run(grid, asking(invitation, fit="channels"), tmp_path / "toy")


GARBAGE = {
    "NaN sums": ("query.statistics", lambda c: nan(c, "class_sums")),
    "half rows": ("query.statistics", lambda c: with_arrays(c, counts=array(c, "counts") / 2)),
    "more rows": ("query.statistics", lambda c: with_arrays(c, counts=array(c, "counts") + 1)),
    "sums of no rows": (
        "query.statistics",
        lambda c: with_arrays(c, class_sums=array(c, "class_sums") + 1),
    ),
    "negative squares": ("query.statistics", lambda c: with_arrays(c, second=-array(c, "second"))),
    "absurd squares": (
        "query.statistics",
        lambda c: with_arrays(c, second=array(c, "second") + np.float32(1e20)),
    ),
    "positive log-probabilities": (
        "query.statistics",
        lambda c: with_arrays(c, log_probs=-array(c, "log_probs")),
    ),
    "other labels": (
        "query.statistics",
        lambda c: with_arrays(c, counts=array(c, "counts")[:, :2]),
    ),
    "infinite losses": (
        "query.losses",
        lambda c: with_arrays(c, losses=array(c, "losses") * math.inf),
    ),
    "negative losses": ("query.losses", lambda c: with_arrays(c, losses=-array(c, "losses"))),
    "fewer losses": ("query.losses", lambda c: with_arrays(c, losses=array(c, "losses")[:1])),
    "absurd gradient": (
        "query.curvatures",
        lambda c: with_arrays(c, gradient=array(c, "gradient") + 1e300),
    ),
    "concave": ("query.curvatures", lambda c: with_arrays(c, hessian=-array(c, "hessian"))),
    "not symmetric": (
        "query.curvatures",
        lambda c: with_arrays(c, hessian=array(c, "hessian") + np.triu(np.full((7, 7), 9.0), 1)),
    ),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_costs_its_sender_its_rows(
    grid: LoopGrid, head: Invitation, tmp_path: Path, name: str
) -> None:
    """And it is not asked again until rungs are judged."""
    spoiled, spoil = GARBAGE[name]
    grid.spoil(12, spoiled, spoil)
    outcome = run(grid, head, tmp_path / "toy")
    assert all(torch.isfinite(tensor).all() for tensor in held(outcome).values())
    asked = [one.metadata.message_type for one in grid.sent if one.metadata.dst_node_id == 12]
    assert [kind for kind in asked if kind.startswith("query.")][-1] == spoiled


WRONG = {
    "fit": ("query.curvatures", 3),
    "strength": ("query.curvatures", -1),
    "left_out": ("query.curvatures", 5),
    "theta": ("query.curvatures", math.nan),
    "count": ("query.curvatures", 10**9),
    "fits": ("query.statistics", ["text"]),
}


@pytest.mark.parametrize("part", WRONG)
def test_a_client_refuses_what_no_coordinator_asks(
    grid: LoopGrid, head: Invitation, tmp_path: Path, part: str
) -> None:
    run(grid, head, tmp_path / "toy")
    kind, wrong = WRONG[part]
    message = grid.first(kind)
    arrays = {name: array.numpy() for name, array in message.content.get("asked", {}).items()}
    ask = dict(message.content["ask"])
    if part in arrays:
        arrays[part] = np.full_like(arrays[part], wrong)
    else:
        ask[part] = wrong
    reply = ask_again(grid, message, ask, array_record(arrays))
    assert reply["status"]["status"] == "refused"
    assert "its own log" not in reply["status"]["reason"]


def ask_again(grid: LoopGrid, message: Message, ask: dict, asked: ArrayRecord) -> RecordDict:
    message.content["ask"] = ConfigRecord(ask)
    message.content["asked"] = asked
    return grid.answer(message)


def test_messages_hold_no_text_and_no_token_id(
    grid: LoopGrid,
    invitation: Invitation,
    examples: list[Example],
    llama: HookedModel,
    tmp_path: Path,
) -> None:
    """Everything a client ever sent on the whole ladder, as the records it is made of."""
    asked = asking(invitation, fit="auto", readout="auto", least_held_out=1)
    outcome = run(grid, asked, tmp_path / "toy")
    assert len(outcome.artifact.spec.calibration.rungs) == len(ladder.LADDER)
    assert kinds(grid) == {
        "query.join",
        "train.extract",
        "train.fit",
        "evaluate.held_out",
        "query.statistics",
        "query.losses",
        "query.curvatures",
        "evaluate.judge",
    }
    numbers = {"client", "examples", "held_out", "count", "label_counts", "losses", "loss", "rows"}
    for reply in grid.received:
        content = reply.content
        assert set(content) <= {"status", "numbers", "answer", "weights"}
        assert content["status"] == ConfigRecord({"status": "ok"})
        if "weights" in content:  # of the model, once, when it joins
            digest = invitation.model.weights_digest
            assert content["weights"] == ConfigRecord({"digest": digest})
        assert set(content["numbers"]) <= numbers
        for value in content["numbers"].values():
            assert isinstance(value, int | float | list)
        wire = b"".join(part.deflate() for part in parts_of(content))
        for example in examples:
            assert example.text.encode() not in wire
            ids = llama.tokenizer(example.text)["input_ids"]
            for width in (np.int16, np.int32, np.int64):
                assert np.array(ids[:4], width).tobytes() not in wire


def test_readouts_of_the_whole_ladder_are_fitted_in_a_dozen_messages(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    """To a client: a message is a process of Flower's."""
    run(grid, asking(invitation, fit="auto", readout="auto", least_held_out=1), tmp_path / "toy")
    asked = Counter(
        message.metadata.message_type for message in grid.sent if message.metadata.dst_node_id == 10
    )
    assert asked["query.statistics"] == asked["query.losses"] == asked["evaluate.judge"] == 1
    assert asked["query.curvatures"] <= 12


def test_a_client_solves_for_directions_once(
    grid: LoopGrid, head: Invitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for every message; and what they were solved from is never told otherwise."""
    solved: list[Statistics] = []

    def counted(told: Statistics) -> list[Directions]:
        solved.append(told)
        return directions(told)

    monkeypatch.setattr(reader, "directions", counted)
    run(grid, head, tmp_path / "toy")
    assert len(solved) == len(grid.nodes) * FOLDS
    message = grid.first("query.losses")
    sums = {name: array.numpy() for name, array in message.content["sums.none"].items()}
    sums["counts"] += 1
    message.content["sums.none"] = array_record(sums)
    reply = grid.answer(message)
    reason = "was sent another sums.none than before in the same run"
    assert reply["status"] == ConfigRecord({"status": "refused", "reason": reason})


def silent_at(kind: str, number: int) -> Tamper:
    """Whose answer to the so-manieth message of a kind does not arrive."""
    answered = itertools.count(1)

    def tamper(seen: str, content: RecordDict) -> RecordDict | None:
        return None if seen == kind and next(answered) == number else content

    return tamper


@pytest.mark.parametrize(
    ("kind", "number"), [("query.losses", 1), ("query.curvatures", 1), ("query.curvatures", 4)]
)
def test_a_client_that_goes_amid_the_rounds_is_left_out_of_them_from_the_beginning(
    grid: LoopGrid,
    head: Invitation,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    number: int,
) -> None:
    """What it told of its rows before stands: the others are not told a second sum, whose
    difference to the first would be that client's."""
    grid.nodes[12].tamper = silent_at(kind, number)
    with caplog.at_level("INFO", logger="flwr"):
        outcome = run(grid, head, tmp_path / "toy")
    assert f"{kind}: client 2 did not answer in time" in caplog.text
    assert "readouts are fitted anew, without the rows of clients [2]" in caplog.text
    owners = grid.owners.values()
    parts = [Participant(owner, head).read(None, by_held_out=False).reader for owner in owners]
    everybody = Readers({"none": parts})
    told = everybody.statistics(["none"])
    everybody.learn(told)
    rung = Rung("none", "head")
    stack = fit_readouts(Readers({"none": parts[:2]}), [rung], len(head.labels))[rung]
    for name, tensor in readout_tensors(told["none"], stack, "head").items():
        assert torch.equal(outcome.done.tensors_of(rung)[name], tensor)


def test_too_few_for_a_readout_are_an_error_that_loses_no_round(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asking(invitation, fit="channels", readout="head")
    undisturbed = run(grid, asked, tmp_path / "undisturbed")
    grid.forget()
    grid.nodes[12].tamper = silent_at("query.curvatures", 3)
    terms = Terms(clients=3, quorum=3, wait=5, timeout=0.3)
    with pytest.raises(QuorumError, match="2 clients answered query.curvatures, 3 are needed"):
        run(grid, asked, tmp_path / "toy", terms)
    assert "query.curvatures: client 2 did not answer in time" in caplog.text
    before = len(grid.received)
    outcome = run(grid, asked, tmp_path / "toy", terms)
    assert outcome.artifact.digest == undisturbed.artifact.digest
    asked_again = {reply.metadata.message_type for reply in grid.received[before:]}
    assert not any(kind.startswith("train.") for kind in asked_again)


def parts_of(part):
    yield part
    for child in (part.children or {}).values():
        yield from parts_of(child)
