"""What `ifedicl client` hands to Flower's SuperNode, and what it refuses before."""

import os
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.common.config import parse_config_args

from calibration.command.federate import client
from calibration.federation.client.app import owner_from_node
from calibration.federation.client.participant import Owner
from calibration.federation.client.supernode import node_config


def test_an_owner_survives_flowers_node_config(tmp_path: Path) -> None:
    owner = Owner(
        2, "a model", tmp_path / "mine = x.jsonl", max_epsilon=4.0, answers=tmp_path, truncate=True
    )
    values = parse_config_args([node_config(owner)])
    assert owner_from_node(Context(1, 1, values, RecordDict(), {})) == owner


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
    monkeypatch.setattr(os, "execve", lambda *arguments: pytest.fail("started a SuperNode"))
    common = ["--model=m", f"--data={clients[2]}", "--client=0", "--superlink=h:1", "--insecure"]
    assert client([*common, *options]) == 1
    assert message in capsys.readouterr().err


def test_answers_to_private_federations_lie_beside_the_data(
    clients: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(
        os, "execve", lambda program, arguments, environment: started.extend(arguments)
    )
    assert (
        client(["--model=m", f"--data={clients[2]}", "--client=0", "--superlink=h:1", "--insecure"])
        == 0
    )
    values = parse_config_args([started[started.index("--node-config") + 1]])
    owner = owner_from_node(Context(1, 1, values, RecordDict(), {}))
    assert owner.answers == clients[2].parent / ".client-2.jsonl.answers"
