"""A seed of its own for every client and round, from the one a person chose."""

import hashlib

EXTRACTION = -1  # in a round's place, for what is drawn before the first


def derived_seed(seed: int, client: int, round_index: int) -> int:
    """The same on every machine."""
    digest = hashlib.sha256(f"{seed}/{client}/{round_index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch seeds are signed
