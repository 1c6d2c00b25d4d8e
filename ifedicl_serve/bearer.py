"""Keys that are sent as `Authorization: Bearer KEY`: what can be one, wherever it comes from.

Never says what it saw: a key is in no message.
"""

import re

SENDABLE = re.compile(r"\A[!-~]+\Z")  # what arrives in a header as it was sent


def why_unsendable(key: str, source: str) -> str | None:
    """What is wrong with a key from `source`, a flag or a variable; None if it can be sent."""
    if SENDABLE.fullmatch(key):
        return None
    return (
        f"{source} is empty or holds more than printable ASCII without spaces and line ends, which "
        "a header cannot carry; make a key with `openssl rand -hex 32`, or leave it out"
    )
