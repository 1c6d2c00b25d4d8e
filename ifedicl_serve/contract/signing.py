"""Who made a task: an Ed25519 signature beside it, and the keys whose signatures count.

`task.json.sig` holds the 64 bytes of a signature over `message(digest)`. The digest names both
files of an artifact, so the signature covers the whole task, and the first line of the message
keeps it from being taken for a signature of anything else. Keys are PEM files as openssl writes
them, and openssl can check and make signatures (docs/operations.md).

A signature says who made a task, not that it is the newest: whoever may write the folder can put
back an older one of the same maker. Knows digests and files, nothing of what a task holds.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ifedicl_serve.errors import ArtifactError, KeyFileError
from ifedicl_serve.files.reading import read_file
from ifedicl_serve.files.writing import write_file

SIGNATURE_FILE = "task.json.sig"
SIGNATURE_BYTES = 64
MAX_KEY_FILE_BYTES = 1 << 16
PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
MAKE_KEYS = (
    "make one with `openssl genpkey -algorithm ed25519 -out key.pem`, and its public key with "
    "`openssl pkey -in key.pem -pubout`"
)


def message(digest: str) -> bytes:
    """What is signed for the artifact of that digest."""
    return f"ifedicl-serve task v1\nsha256:{digest}\n".encode()


@dataclass(frozen=True)
class TrustedKeys:
    """The public keys (32 bytes each) whose signatures a server accepts."""

    keys: tuple[bytes, ...]

    @classmethod
    def read(cls, path: Path) -> "TrustedKeys":
        """One or several PEM public keys; text around them is ignored. Raises KeyFileError."""
        raw = _key_file(path)
        blocks = list(PEM_BLOCK.finditer(raw))
        if not blocks:
            raise KeyFileError(f"{path}: holds no PEM public key; {MAKE_KEYS}")
        return cls(tuple(dict.fromkeys(_public_key(path, block) for block in blocks)))

    def signer_of(self, folder: Path, digest: str) -> bytes:
        """The key that signed the artifact in `folder`, whose digest is `digest`.

        Raises ArtifactError if there is no signature or if none of the keys made it.
        """
        signature = read_signature(folder)
        if signature is None:
            raise ArtifactError(
                f"{folder}: not signed, and this server serves signed tasks only; run `ifedicl "
                "sign` with a key it trusts"
            )
        for key in self.keys:
            if _signed(key, signature, message(digest)):
                return key
        trusted = ", ".join(fingerprint(key) for key in self.keys)
        raise ArtifactError(
            f"{folder}: {SIGNATURE_FILE} is no signature of this task by a trusted key "
            f"({trusted}); the task changed after it was signed, or somebody else signed it: look "
            "at it, then run `ifedicl sign` with a trusted key"
        )


def write_signature(folder: Path, digest: str, key: Ed25519PrivateKey) -> None:
    """Sign the artifact in `folder`, whose digest is `digest`. Raises ArtifactError."""
    try:
        write_file(folder / SIGNATURE_FILE, key.sign(message(digest)))
    except OSError as error:
        raise ArtifactError(
            f"{folder}: cannot write {SIGNATURE_FILE}: {error.strerror}; sign a copy of the task "
            "that you may write to"
        ) from error


def read_signature(folder: Path) -> bytes | None:
    """The signature in an artifact's folder, or None. Raises ArtifactError if it is none."""
    path = folder / SIGNATURE_FILE
    try:
        raw = read_file(path, SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror}") from error
    if len(raw) != SIGNATURE_BYTES:
        size = len(raw) if len(raw) < SIGNATURE_BYTES else f"more than {SIGNATURE_BYTES}"
        raise ArtifactError(
            f"{path}: has {size} bytes, an Ed25519 signature has {SIGNATURE_BYTES}; sign the task "
            "again"
        )
    return raw


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """A private key in an unencrypted PEM file. Raises KeyFileError."""
    raw = _key_file(path)
    try:
        key = load_pem_private_key(raw, password=None)
    except TypeError as error:
        raise KeyFileError(
            f"{path}: is encrypted; decrypt it on the way: `openssl pkey -in {path} | "
            "ifedicl sign --key /dev/stdin TASK`"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path}: holds no PEM private key; {MAKE_KEYS}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: holds a key of another kind than Ed25519; {MAKE_KEYS}")
    return key


def public_bytes(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def fingerprint(key: bytes) -> str:
    """A public key's short name: `openssl pkey -pubin -in KEY -outform der | sha256sum`, cut."""
    public = Ed25519PublicKey.from_public_bytes(key)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()[:16]


def _key_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:  # may be a pipe
            raw = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot read: {error.strerror}") from error
    if len(raw) > MAX_KEY_FILE_BYTES:
        raise KeyFileError(f"{path}: larger than {MAX_KEY_FILE_BYTES} bytes; not a key file")
    return raw


def _public_key(path: Path, block: re.Match[bytes]) -> bytes:
    kind = block[1].decode()
    if kind != "PUBLIC KEY":
        raise KeyFileError(
            f"{path}: holds a {kind}, expected public keys alone; write those with `openssl pkey "
            "-in key.pem -pubout`"
        )
    try:
        key = load_pem_public_key(block[0])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path}: a PEM public key in it is damaged; copy it again") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path}: holds a key of another kind than Ed25519; {MAKE_KEYS}")
    return public_bytes(key)


def _signed(key: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except InvalidSignature:
        return False
    return True
