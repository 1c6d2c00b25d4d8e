"""The coordinator against clients that die, forget, lie and are poisoned."""

import io
import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, MetricRecord, RecordDict

from calibration.federation.coordinator.app import LoggedProgress
from calibration.federation.coordinator.checks import outsized, refuse_values
from calibration.federation.coordinator.fleet import Terms
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import FIT, not_ok
from calibration.result.report import write_report
from calibration.run.progress import Progress
from calibration.settings import SiteFit
from ifedicl_serve.contract.artifact import load_artifact
from ifedicl_serve.errors import FederationError, QuorumError
from tests.federation.conftest import LoopGrid
from tests.federation.running import run

# -- clients that lose their own contribution only


def test_a_client_that_dies_loses_its_own_rounds(
    grid: LoopGrid, invitation: Invitation, tmp_path: Path
) -> None:
    class Dies(Progress):
        def fitting(self, fit: SiteFit, client: int, round_index: int):
            if round_index == 1:
                grid.nodes.pop(12, None)
            return super().fitting(fit, client, round_index)

    outcome = run(grid, invitation, tmp_path / "toy", progress=Dies())
    losses = outcome.done.state.losses["coefficients"]
    assert [[len(steps) for steps in one] for one in losses] == [
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
    outcome = run(grid, invitation, tmp_path / "toy", terms)
    assert outcome.done.state.rounds_done("coefficients") == 3


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
    assert "coefficients, round 3/3: mean loss of client 1: 1.500, client 2: 1.500" in caplog.text
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


def with_arrays(content: RecordDict, **changed: np.ndarray) -> RecordDict:
    arrays = ArrayRecord({**content["answer"], **{k: Array(v) for k, v in changed.items()}})
    return RecordDict({**content, "answer": arrays})


def array(content: RecordDict, name: str = "values") -> np.ndarray:
    return content["answer"][name].numpy()


def nan(content: RecordDict, name: str = "values") -> RecordDict:
    return with_arrays(content, **{name: array(content, name) * np.float32(math.nan)})


def with_bytes(content: RecordDict, name: str, data: bytes) -> RecordDict:
    sent = content["answer"][name]
    forged = Array(sent.dtype, sent.shape, sent.stype, data)
    return RecordDict({**content, "answer": ArrayRecord({**content["answer"], name: forged})})


def claiming(shape: tuple[int, ...], content: RecordDict) -> RecordDict:
    """A header of another shape before the same values."""
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return with_bytes(content, "values", stream.getvalue() + array(content).tobytes())


GARBAGE = {
    "NaN vector": ("train.extract", nan),
    "wrong shape": ("train.extract", lambda c: with_arrays(c, values=np.zeros(3, np.float32))),
    "float64": ("train.extract", lambda c: with_arrays(c, values=np.zeros((3, 2, 64)))),
    "no arrays": ("train.extract", lambda c: RecordDict({k: c[k] for k in ("status", "numbers")})),
    "another array": ("train.extract", lambda c: with_arrays(c, text=np.zeros(1, np.float32))),
    "absurd vector": (
        "train.extract",
        lambda c: with_arrays(c, values=array(c) * np.float32(1000)),
    ),
    "no bytes": ("train.extract", lambda c: with_bytes(c, "values", b"")),
    "a terabyte": ("train.extract", partial(claiming, (10**6, 10**6))),
    "too many bytes": (
        "train.extract",
        lambda c: with_arrays(c, values=np.zeros((1000, 1000), np.float32)),
    ),
    "more examples than announced": ("train.extract", lambda c: with_numbers(c, count=5)),
    "no examples": ("train.extract", lambda c: with_numbers(c, count=0)),
    "half an example": ("train.extract", lambda c: with_numbers(c, count=1.5)),
    "no status": ("train.extract", lambda c: RecordDict()),
    "other status": ("train.extract", lambda c: not_ok("fine", "")),
    "refusal": ("train.extract", lambda c: not_ok("refused", "is busy")),
    "crash": ("train.extract", lambda c: Error(code=1, reason="ClientApp crashed")),
    "silence": ("train.extract", lambda c: None),
    "NaN coefficients": ("train.fit", nan),
    "absurd coefficients": ("train.fit", lambda c: with_arrays(c, values=array(c) + 1000)),
    "untouched sites": (
        "train.fit",
        lambda c: with_arrays(c, values=np.full((3, 2, 2), 0.5, np.float32)),
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
    "NaN judgement": ("evaluate.judge", lambda c: nan(c, "losses")),
    "rows nobody has": ("evaluate.judge", lambda c: with_numbers(c, rows=2)),
    "half a row": ("evaluate.judge", lambda c: with_numbers(c, rows=0.5)),
    "absurd losses of rungs": (
        "evaluate.judge",
        lambda c: with_arrays(c, losses=array(c, "losses") * 1e6),
    ),
    "products of other losses": (
        "evaluate.judge",
        lambda c: with_arrays(c, products=array(c, "products") / 4),
    ),
    "counts of more rows": (
        "evaluate.judge",
        lambda c: with_arrays(c, counts=array(c, "counts") + 1),
    ),
    "half counts": ("evaluate.judge", lambda c: with_arrays(c, counts=array(c, "counts") / 2)),
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
    grid.spoil(12, spoiled, spoil)
    outcome = run(grid, invitation, tmp_path / "toy")
    assert load_artifact(tmp_path / "toy").digest == outcome.artifact.digest
    expected = {"query.join": 2, "train.extract": 2, "train.fit": 3, "evaluate.judge": 3}
    state = outcome.done.state
    assert len(state.federation["clients"]) == expected[spoiled]
    fitted = [bool(one_round[-1]) for one_round in state.losses["coefficients"]]
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
        with_arrays(content, values=np.full((3, 2, 64), 1e38, np.float32))
        if kind == "train.extract"
        else content
    )
    outcome = run(grid, invitation, tmp_path / "toy", Terms(2, 1, wait=0.3, timeout=0.3))
    assert outcome.done.state.federation["clients"] == [0]


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


def test_values_within_reason_pass() -> None:
    untouched, identity = torch.tensor([[True, False]]), torch.tensor([[0.0, 1.0]])
    refuse_values("coefficients", torch.tensor([[[0.0, 1], [3, -2]]]), untouched, identity)
    with pytest.raises(FederationError, match="expected within 100"):
        refuse_values("coefficients", torch.tensor([[[0.0, 1], [101, 1]]]), untouched, identity)
    with pytest.raises(FederationError, match="does not adapt"):
        refuse_values("coefficients", torch.tensor([[[0.1, 1], [3, -2]]]), untouched, identity)
    channels = torch.zeros(1, 2, 2, 4)
    channels[0, 1, 1] = 1e6  # a shift is as large as an activation
    refuse_values("channels", channels, untouched, torch.zeros(1, 2, 4))
    channels[0, 1, 0, 0] = 101.0
    with pytest.raises(FederationError, match="expected within 100"):
        refuse_values("channels", channels, untouched, torch.zeros(1, 2, 4))


@pytest.mark.parametrize(("clients", "quorum"), [(3, 0), (3, 4)])
def test_a_quorum_out_of_reach_is_refused(clients: int, quorum: int) -> None:
    with pytest.raises(FederationError, match=f"quorum is {quorum}"):
        Terms(clients, quorum)


def test_case_4_a_client_with_a_row_that_is_too_long_does_not_begin(
    grid: LoopGrid, clients: list[Path], invitation: Invitation, tmp_path: Path, caplog
) -> None:
    """Its own log names the row, and what it may do; the others go on without it."""
    with clients[2].open("a") as file:
        file.write(json.dumps({"text": "and so on " * 1000, "label": "water"}))
    with caplog.at_level("ERROR", logger="flwr"):
        outcome = run(grid, invitation, tmp_path / "toy")
    assert list(outcome.done.state.clients) == [0, 1]
    assert f"{clients[2]}: row 4: its prompt has " in caplog.text and "--truncate" in caplog.text


def test_case_4_a_client_may_cut_its_texts(
    grid: LoopGrid, clients: list[Path], invitation: Invitation, tmp_path: Path
) -> None:
    with clients[2].open("a") as file:
        file.write(json.dumps({"text": "and so on " * 1000, "label": "water"}))
    grid.owners[12] = replace(grid.owners[12], truncate=True)
    outcome = run(grid, invitation, tmp_path / "toy")
    assert list(outcome.done.state.clients) == [0, 1, 2]
