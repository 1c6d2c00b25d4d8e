"""Signed tasks: what a server with trusted keys serves, and every refusal by its message."""

import itertools
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE, load_artifact
from ifedicl_serve.contract.signing import (
    SIGNATURE_FILE,
    TrustedKeys,
    fingerprint,
    message,
    read_signature,
    read_signing_key,
    write_signature,
)
from ifedicl_serve.errors import ArtifactError, KeyFileError, TaskNotFoundError, UploadError
from ifedicl_serve.tasks.editor import TaskEditor
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.ifedicl_serve.factory import HIDDEN, LAYERS, MODEL, make_artifact
from tests.ifedicl_serve.keys import private_pem, public_pem, trusting

# Made by openssl 3 (`genpkey -algorithm ed25519`, `pkey -pubout`), as is the signature of the
# message of the digest of b"abc" (`pkeyutl -sign -rawin`).
OPENSSL_KEY = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEILMKlXeFN/jCZDsIxh6MlTEFr6cF8Zex0oJhissVySTP
-----END PRIVATE KEY-----
"""
OPENSSL_PUBLIC_KEY = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAOHa+JpiJAdlbKKLGH8mtAvk2RIe18lTiTj8p68KiYUU=
-----END PUBLIC KEY-----
"""
ABC_DIGEST = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
ABC_SIGNATURE = bytes.fromhex(
    "9e9bb7422289d0e088cc307b42223c50b90af2d8af02e72db5eef7f2bf3095e0"
    "c5abed951edf250b6dc501d4b2ae6d04b8740e69d5f930c08b9d296973a99708"
)
FINGERPRINT = "f4c6a6f8b6cb27ba"  # of that key, by `openssl pkey -outform der | sha256sum`


@pytest.fixture
def key():
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def stranger():
    return Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def folder(tmp_path, key):
    """A signed task."""
    digest = make_artifact(tmp_path / "sst2").digest
    write_signature(tmp_path / "sst2", digest, key)
    return tmp_path / "sst2"


def refusal(folder, trusted):
    with pytest.raises(ArtifactError) as caught:
        load_artifact(folder, MODEL, trusted=trusted)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# -- signatures


def test_a_signed_task_loads_where_its_key_is_trusted(folder, key, stranger):
    assert load_artifact(folder, MODEL, trusted=trusting(key)).spec.name == "sst2"
    assert load_artifact(folder, MODEL, trusted=trusting(stranger, key)).spec.name == "sst2"


def test_a_signature_is_no_part_of_the_content(folder, tmp_path):
    assert load_artifact(folder).digest == make_artifact(tmp_path / "unsigned").digest


def test_openssl_and_we_read_each_others_keys_and_signatures(tmp_path):
    (tmp_path / "key.pem").write_bytes(OPENSSL_KEY)
    (tmp_path / "public.pem").write_bytes(OPENSSL_PUBLIC_KEY)
    key, trusted = read_signing_key(tmp_path / "key.pem"), TrustedKeys.read(tmp_path / "public.pem")
    assert trusted == trusting(key)
    assert fingerprint(trusted.keys[0]) == FINGERPRINT
    assert key.sign(message(ABC_DIGEST)) == ABC_SIGNATURE
    (tmp_path / SIGNATURE_FILE).write_bytes(ABC_SIGNATURE)
    assert trusted.signer_of(tmp_path, ABC_DIGEST) == trusted.keys[0]


def test_an_unsigned_task_is_refused(folder, key):
    (folder / SIGNATURE_FILE).unlink()
    assert refusal(folder, trusting(key)).endswith(
        "not signed, and this server serves signed tasks only; run `ifedicl sign` with a key it "
        "trusts"
    )


def test_a_task_that_somebody_else_signed_is_refused(folder, key, stranger):
    message = refusal(folder, trusting(stranger))
    name = fingerprint(trusting(stranger).keys[0])
    assert f"is no signature of this task by a trusted key ({name})" in message
    assert fingerprint(trusting(key).keys[0]) not in message


def test_the_signature_of_another_task_is_refused(folder, tmp_path, key):
    digest = make_artifact(tmp_path / "other", seed=1).digest
    write_signature(tmp_path / "other", digest, key)
    (tmp_path / "other" / SIGNATURE_FILE).rename(folder / SIGNATURE_FILE)
    assert "no signature of this task by a trusted key" in refusal(folder, trusting(key))


def test_a_signature_of_the_bare_digest_is_refused(folder, key):
    """A key that signs other things as well cannot be made to sign a task."""
    digest = load_artifact(folder).digest
    for text in (digest.encode(), bytes.fromhex(digest), (folder / TASK_FILE).read_bytes()):
        (folder / SIGNATURE_FILE).write_bytes(key.sign(text))
        assert "no signature of this task" in refusal(folder, trusting(key))


@pytest.mark.parametrize("position", range(64))
def test_a_flipped_bit_of_the_signature_is_refused(folder, key, position):
    raw = bytearray(read_signature(folder))
    raw[position] ^= 1 << position % 8
    (folder / SIGNATURE_FILE).write_bytes(raw)
    assert "no signature of this task" in refusal(folder, trusting(key))


def test_a_flipped_bit_of_the_task_is_refused(folder, key):
    raw = (folder / TASK_FILE).read_bytes()
    (folder / TASK_FILE).write_bytes(raw.replace(b'"seed": 0', b'"seed": 1'))
    assert "the task changed after it was signed" in refusal(folder, trusting(key))


def test_other_vectors_are_refused(folder, key, tmp_path):
    make_artifact(tmp_path / "other", seed=1)
    (tmp_path / "other" / VECTORS_FILE).rename(folder / VECTORS_FILE)
    assert "does not match the SHA-256 in task.json" in refusal(folder, trusting(key))


@pytest.mark.parametrize(
    ("size", "seen"), [(0, "0"), (63, "63"), (65, "more than 64"), (1 << 20, "more than 64")]
)
def test_a_signature_of_another_size_is_refused(folder, key, size, seen):
    (folder / SIGNATURE_FILE).write_bytes(bytes(size))
    assert f"has {seen} bytes, an Ed25519 signature has 64; sign" in refusal(folder, trusting(key))


def test_what_is_no_regular_file_is_refused_and_not_waited_for(folder, key):
    path = folder / SIGNATURE_FILE
    path.unlink()
    os.mkfifo(path)
    assert refusal(folder, trusting(key)).endswith("cannot read: not a regular file")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refusal(folder, trusting(key)).endswith("cannot read: not a regular file")
    path.unlink()
    path.mkdir()
    assert refusal(folder, trusting(key)).endswith("cannot read: Is a directory")


def test_a_link_to_a_signature_is_one(folder, key):
    """As Kubernetes mounts files: what counts is the content."""
    (folder / SIGNATURE_FILE).rename(folder.parent / "elsewhere")
    (folder / SIGNATURE_FILE).symlink_to(folder.parent / "elsewhere")
    assert load_artifact(folder, MODEL, trusted=trusting(key))


@pytest.mark.parametrize("raw", [b"", b"x", bytes(64), bytes(1 << 16)])
def test_without_trusted_keys_a_signature_is_not_looked_at(folder, raw):
    """Without keys there is nothing to judge it by, and it is no part of the content."""
    (folder / SIGNATURE_FILE).write_bytes(raw)
    assert load_artifact(folder, MODEL)


def test_calibrating_again_removes_the_signature(folder, key):
    make_artifact(folder, seed=1)
    assert sorted(os.listdir(folder)) == [TASK_FILE, VECTORS_FILE]
    assert "not signed" in refusal(folder, trusting(key))


def test_signing_again_replaces_the_signature_and_leaves_nothing_else(folder, key, stranger):
    write_signature(folder, load_artifact(folder).digest, stranger)
    assert load_artifact(folder, MODEL, trusted=trusting(stranger))
    assert sorted(os.listdir(folder)) == [TASK_FILE, SIGNATURE_FILE, VECTORS_FILE]


# -- key files


def write(path: Path, *blocks: bytes) -> Path:
    path.write_bytes(b"".join(blocks))
    return path


def test_several_public_keys_in_one_file_with_words_between(tmp_path, key, stranger):
    path = write(
        tmp_path / "keys.pem",
        b"# the release key\n",
        public_pem(key),
        b"\r\nof the hospital: \xff\n",
        public_pem(stranger).replace(b"\n", b"\r\n"),
        public_pem(key),
    )
    assert TrustedKeys.read(path) == trusting(key, stranger)


EC = generate_private_key(SECP256R1())
ED = Ed25519PrivateKey.generate()
DAMAGED = public_pem(ED).replace(b"MCow", b"MCoX")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "holds no PEM public key; make one with `openssl genpkey"),
        (b"\0" * 1000, "holds no PEM public key"),
        (public_pem(ED)[:60], "holds no PEM public key"),
        (DAMAGED, "a PEM public key in it is damaged; copy it again"),
        (public_pem(ED) + DAMAGED, "a PEM public key in it is damaged; copy it again"),
        (public_pem(EC), "holds a key of another kind than Ed25519"),
        (private_pem(ED), "holds a PRIVATE KEY, expected public keys alone; write those with"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----", "holds a CERTIFICATE,"),
        (b"x" * (1 << 17), "larger than 65536 bytes; not a key file"),
    ],
    ids=itertools.count(),  # not the keys, which are others in each process
)
def test_a_file_of_other_than_public_keys_is_refused(tmp_path, raw, message):
    path = write(tmp_path / "keys.pem", raw)
    with pytest.raises(KeyFileError, match="keys.pem: ") as caught:
        TrustedKeys.read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "holds no PEM private key; make one with `openssl genpkey"),
        (b"\xff" * 100, "holds no PEM private key"),
        (public_pem(ED), "holds no PEM private key"),
        (private_pem(ED)[:-40], "holds no PEM private key"),
        (private_pem(EC), "holds a key of another kind than Ed25519"),
        (private_pem(ED, BestAvailableEncryption(b"x")), "is encrypted; decrypt it on the way"),
    ],
    ids=itertools.count(),
)
def test_a_file_of_no_private_key_is_refused(tmp_path, raw, message):
    with pytest.raises(KeyFileError) as caught:
        read_signing_key(write(tmp_path / "key.pem", raw))
    assert message in str(caught.value)


def test_a_missing_key_file_is_refused(tmp_path):
    for read in (TrustedKeys.read, read_signing_key):
        with pytest.raises(KeyFileError, match="none.pem: cannot read: No such file"):
            read(tmp_path / "none.pem")


# -- a server's folder


@pytest.fixture
def registry(folder, key, bpe):
    """Of one signed task, trusting its key."""
    return TaskRegistry(folder.parent, MODEL, bpe, trusting(key))


def test_only_signed_tasks_serve(registry, folder, bpe, stranger):
    make_artifact(folder.parent / "unsigned", name="unsigned")
    digest = make_artifact(folder.parent / "foreign", name="foreign").digest
    write_signature(folder.parent / "foreign", digest, stranger)
    registry.refresh()
    assert list(registry.tasks) == ["sst2"]
    assert registry.refused["unsigned"].startswith("unsigned: not signed, ")
    assert registry.refused["foreign"].startswith("foreign: task.json.sig is no signature of")
    with pytest.raises(TaskNotFoundError, match="refused: unsigned: not signed"):
        registry.get("unsigned")


def test_a_signature_that_comes_later_is_noticed(registry, folder, key):
    digest = make_artifact(folder.parent / "late", name="late").digest
    registry.refresh()
    assert "late" in registry.refused
    write_signature(folder.parent / "late", digest, key)
    assert registry.refresh() == {"late": f"serves task 'late', {digest[:16]}"}
    assert registry.get("late").digest == digest


def test_a_signature_overwritten_in_place_is_noticed(registry, folder):
    registry.get("sst2")
    (folder / SIGNATURE_FILE).write_bytes(bytes(64))
    assert registry.refresh()["sst2"].startswith("refused, sst2: task.json.sig is no signature")


def test_a_signature_that_goes_is_noticed(registry, folder):
    (folder / SIGNATURE_FILE).unlink()
    assert registry.refresh()["sst2"].startswith("refused, sst2: not signed")


# -- uploads


@pytest.fixture
def store(registry):
    return TaskEditor(registry, LAYERS, HIDDEN)


def files_of(folder):
    return [(folder / name).read_bytes() for name in (TASK_FILE, VECTORS_FILE, SIGNATURE_FILE)]


def test_a_signed_upload_serves_and_keeps_its_signature(store, folder, tmp_path, key):
    made = tmp_path / ".made"
    write_signature(made, make_artifact(made, name="trec").digest, key)
    task, replaces = store.put("trec", *files_of(made))
    assert (task.name, replaces) == ("trec", False)
    assert read_signature(folder.parent / "trec") == read_signature(made)


def test_an_unsigned_upload_is_refused_where_keys_are_trusted(store, folder):
    task_file, vectors, signature = files_of(folder)
    for wrong in (None, bytes(64), signature[:-1], b""):
        with pytest.raises(UploadError, match="^sst2"):
            store.put("sst2", task_file, vectors, wrong)
    assert files_of(folder) == [task_file, vectors, signature]


def test_elsewhere_only_the_form_of_an_uploaded_signature_is_checked(folder, bpe):
    """So that a cut one is noticed by who sends it, not when the server is given keys."""
    store = TaskEditor(TaskRegistry(folder.parent, MODEL, bpe), LAYERS, HIDDEN)
    task_file, vectors, signature = files_of(folder)
    with pytest.raises(UploadError, match="sst2/task.json.sig: has 63 bytes"):
        store.put("sst2", task_file, vectors, signature[:-1])
    store.put("sst2", task_file, vectors, bytes(64))
    assert read_signature(folder) == bytes(64)


def test_an_upload_without_a_signature_drops_that_of_the_task_it_replaces(folder, bpe):
    store = TaskEditor(TaskRegistry(folder.parent, MODEL, bpe), LAYERS, HIDDEN)
    store.put("sst2", *files_of(folder)[:2])
    assert read_signature(folder) is None
