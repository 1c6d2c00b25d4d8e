"""How many inputs a property test tries.

IFEDICL_EXAMPLES=20000 pytest tests/ifedicl_serve/contract/test_artifact_properties.py

tries as many random ones per test; without, a few that are the same on every run.
"""

import os

from hypothesis import settings

LONG_RUN = int(os.environ.get("IFEDICL_EXAMPLES", "0"))


def examples(few: int) -> settings:
    """A decorator: `few` inputs, or those of a long run."""
    return settings(max_examples=LONG_RUN or few)
