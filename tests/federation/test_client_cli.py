"""What `ifedicl client` hands to Flower's SuperNode, and what it refuses before."""

from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from calibration.command.federate import client
from calibration.federation.client import supernode
from calibration.federation.client.forward import ADDRESS
from calibration.federation.client.participant import Owner
from calibration.settings import Machine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data=typo.jsonl"], "typo.jsonl: cannot read: No such file"),
        (["--text-column=body"], "no column 'body'"),
        (["--held-out=1.5"], "held-out fraction is 1.5, expected 0 or more and less than 1"),
        (["--held-out=0.9"], "leaves none of 3 rows to fit to"),
    ],
)
def test_data_that_cannot_be_used_is_refused_at_once(
    options: list[str],
    message: str,
    clients: list[Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supernode, "Popen", lambda *_, **__: pytest.fail("started a SuperNode"))
    common = ["--model=m", f"--data={clients[2]}", "--client=0", "--superlink=h:1", "--insecure"]
    assert client([*common, *options]) == 1
    assert message in capsys.readouterr().err


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch):
    """Whom `ifedicl client` answers for, with some options; no process is started."""

    def owner(*options: str) -> Owner:
        known: list[Owner] = []
        monkeypatch.setattr(supernode, "run_supernode", lambda owner, *_: known.append(owner))
        common = ["--model=m", "--client=0", "--superlink=h:1", "--insecure"]
        assert client([*common, *options]) == 0
        return known[0]

    return owner


def test_answers_to_private_federations_lie_beside_the_data(owner, clients: list[Path]) -> None:
    answers = owner(f"--data={clients[2]}").answers
    assert answers == clients[2].parent / ".client-2.jsonl.answers"


def test_a_client_says_how_its_own_model_is_run(owner, clients: list[Path]) -> None:
    options = ["--dtype=bf16", "--max-batch-tokens=512", "--checkpointing=on", "--truncate"]
    asked = owner(f"--data={clients[2]}", *options)
    assert asked.machine == Machine("bf16", max_batch_tokens=512, checkpointing="on")
    assert asked.truncate


def test_the_supernode_is_told_where_to_ask_and_its_status_is_the_commands(
    clients: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the owner: what Flower is told it may log."""
    started: list[str] = []

    class Ended:
        def __init__(self, arguments: list[str], **_: object) -> None:
            started.extend(arguments)

        def wait(self) -> int:
            return 3

    monkeypatch.setattr(supernode, "Popen", Ended)
    monkeypatch.setattr(supernode.signal, "signal", lambda *_: None)
    common = ["--model=m", f"--data={clients[2]}", "--client=0", "--superlink=h:1", "--insecure"]
    assert client(common) == 3
    values = parse_config_args([started[started.index("--node-config") + 1]])
    assert list(values) == [ADDRESS]
