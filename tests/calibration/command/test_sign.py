"""`ifedicl sign`, and what `ifedicl inspect` says of signatures, as a person runs them."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from calibration.command.artifacts import inspect, sign
from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE
from ifedicl_serve.contract.signing import SIGNATURE_FILE, TrustedKeys, fingerprint, read_signature
from tests.ifedicl_serve.factory import make_artifact
from tests.ifedicl_serve.keys import private_pem, public_pem, trusting


@pytest.fixture
def keys(tmp_path: Path) -> list[str]:
    """The options of `sign` and of `inspect`, for one pair of keys."""
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    (tmp_path / "public.pem").write_bytes(public_pem(key))
    return [f"--key={tmp_path / 'key.pem'}", f"--trusted-keys={tmp_path / 'public.pem'}"]


@pytest.fixture
def tasks(tmp_path: Path) -> list[str]:
    """Two tasks."""
    for name in ("sst2", "trec"):
        make_artifact(tmp_path / "tasks" / name, name=name)
    return [str(tmp_path / "tasks" / name) for name in ("sst2", "trec")]


def test_what_was_signed_is_trusted(keys, tasks, tmp_path, capsys) -> None:
    signing, trust = keys
    name = fingerprint(TrustedKeys.read(tmp_path / "public.pem").keys[0])
    assert sign([signing, *tasks]) == 0
    assert capsys.readouterr().out.count(f"with key {name}") == 2
    for task in tasks:
        assert inspect([task, trust]) == 0
        assert f"by trusted key {name}" in capsys.readouterr().out


def test_inspect_says_what_it_knows(keys, tasks, capsys) -> None:
    signing, trust = keys
    assert inspect([tasks[0]]) == 0
    assert "none" in capsys.readouterr().out
    assert inspect([tasks[0], trust]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tasks[0]}: not signed, ")
    assert sign([signing, tasks[0]]) == 0
    assert inspect([tasks[0]]) == 0
    assert "not checked; give --trusted-keys" in capsys.readouterr().out


def test_inspect_refuses_the_signature_of_another_key(keys, tasks, tmp_path, capsys) -> None:
    signing, _ = keys
    sign([signing, *tasks])
    other = Ed25519PrivateKey.generate()
    (tmp_path / "other.pem").write_bytes(public_pem(other))
    assert inspect([tasks[0], f"--trusted-keys={tmp_path / 'other.pem'}"]) == 1
    name = fingerprint(trusting(other).keys[0])
    assert f"by a trusted key ({name})" in capsys.readouterr().err


def test_nothing_is_signed_if_one_of_them_is_damaged(keys, tasks, capsys) -> None:
    (Path(tasks[1]) / VECTORS_FILE).write_bytes(b"")
    assert sign([keys[0], *tasks]) == 1
    assert "does not match the SHA-256" in capsys.readouterr().err
    assert read_signature(Path(tasks[0])) is None


def test_a_folder_that_cannot_be_written_to_is_one_line(keys, tasks, capsys) -> None:
    (Path(tasks[0]) / SIGNATURE_FILE).mkdir()
    assert sign([keys[0], tasks[0]]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tasks[0]}: cannot write {SIGNATURE_FILE}: Is a directory;")
    assert sorted(path.name for path in Path(tasks[0]).iterdir()) == [
        TASK_FILE,
        SIGNATURE_FILE,
        VECTORS_FILE,
    ]


def test_a_key_that_is_none_is_one_line(tasks, tmp_path, capsys) -> None:
    (tmp_path / "key.pem").write_text("secret")
    assert sign([f"--key={tmp_path / 'key.pem'}", tasks[0]]) == 1
    error = capsys.readouterr().err
    assert "holds no PEM private key" in error and "secret" not in error
