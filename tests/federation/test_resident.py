"""A client's one process: what Flower's short ones hand to it, and how often it loads its model."""

import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Listener
from pathlib import Path
from threading import Thread

import pytest
from flwr.app import Context, Message, RecordDict

from calibration.federation.client import participant, resident
from calibration.federation.client.app import client_app
from calibration.federation.client.forward import ADDRESS, Forwarding
from calibration.federation.client.participant import Owner
from calibration.federation.client.resident import Resident
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import (
    INVITATION,
    REJOIN,
    member_of,
    status_of,
)
from calibration.settings import Machine


@pytest.fixture
def owner(clients: list[Path], llama_folder: Path) -> Owner:
    return Owner(0, str(llama_folder), clients[0], machine=Machine(max_batch_tokens=77))


@pytest.fixture
def address(owner: Owner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the owner's process, played by a thread."""
    path = str(tmp_path_factory.mktemp("r") / "socket")
    with Listener(path, "AF_UNIX") as listener:
        app = client_app(lambda context: owner)
        Thread(target=Resident(app).serve, args=(listener,), daemon=True).start()
        yield path


def asked(address: str, kind: str, content: RecordDict, run: int = 1) -> RecordDict:
    """As a process that Flower starts for one message."""
    message = Message(content, 10, kind)
    message.metadata.__dict__["_run_id"] = run
    return Forwarding()(message, Context(run, 10, {ADDRESS: address}, RecordDict(), {})).content


def invited(invitation: Invitation) -> RecordDict:
    return RecordDict({INVITATION: invitation.to_record()})


def test_it_remembers_a_run_and_loads_its_model_once(
    address: str, invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    participant._model.cache_clear()
    opened: list[str] = []
    open_model = participant.open_model

    def counted(name: str, *how):
        opened.append(name)
        return open_model(name, *how)

    monkeypatch.setattr(participant, "open_model", counted)
    for run in (1, 2):
        assert member_of(asked(address, "query.join", invited(invitation), run)).examples == 4
        for _ in range(2):
            assert status_of(asked(address, "train.extract", RecordDict(), run))[0] == "ok"
    assert len(opened) == 1
    assert participant._model(opened[0], Machine(max_batch_tokens=77)).max_batch_tokens == 77


def test_of_a_run_long_ago_it_must_be_told_again(
    address: str, invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "KEPT_RUNS", 1)
    asked(address, "query.join", invited(invitation), run=1)
    asked(address, "query.join", invited(invitation), run=2)
    assert status_of(asked(address, "train.extract", RecordDict(), run=1))[0] == REJOIN


def test_what_cannot_be_answered_ends_its_own_message_alone(
    address: str, invitation: Invitation
) -> None:
    with pytest.raises(EOFError):
        asked(address, "query.nothing", RecordDict())
    assert member_of(asked(address, "query.join", invited(invitation))).client == 0


def test_flowers_short_process_loads_no_torch() -> None:
    code = "import sys, calibration.federation.client.forward; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
