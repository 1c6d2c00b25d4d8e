"""Keys to sign with and to trust, as the PEM files hold them."""

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ifedicl_serve.contract.signing import TrustedKeys, public_bytes


def private_pem(key, encryption=None):
    """A private key of any kind; not encrypted by default."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public_pem(key):
    """The public half of a private key."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def trusting(*keys):
    """What trusts the signatures of these private keys."""
    return TrustedKeys(tuple(public_bytes(key.public_key()) for key in keys))
