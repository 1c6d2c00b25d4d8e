"""Order and profile of all tests, and what several folders of them use.

Property tests are quick, and the same on every run, unless IFEDICL_EXAMPLES asks for more.
"""

import logging
import os

# Before torch is imported, and for every process the tests start. Each has a core at most: two
# processes of two threads on two cores mostly wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"

import pytest
from hypothesis import settings

from tests.properties import LONG_RUN

# No deadline: machines are shared. In a long run a minute for one input is a hang.
settings.register_profile(
    "ours",
    deadline=60_000 if LONG_RUN else None,
    database=None,
    derandomize=not LONG_RUN,
    max_examples=LONG_RUN or 100,
)
settings.load_profile("ours")

# Chains of commands, minutes each: begun last, one would run alone while the other process idles.
FIRST = ("test_readme.py", "test_demo.py", "test_deployment.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then those with engines, then the rest."""

    def turn(item: pytest.Item) -> int:
        if item.path.name in FIRST:
            return FIRST.index(item.path.name)
        return len(FIRST) + ("engine" not in item.path.parts)

    items.sort(key=turn)


@pytest.fixture
def logged(caplog, monkeypatch):
    """What is logged below "vllm", whose lines do not reach the root logger once it is imported."""
    caplog.set_level(logging.INFO, logger="vllm.ifedicl")
    vllm = logging.getLogger("vllm")
    monkeypatch.setattr(vllm, "propagate", False)
    vllm.addHandler(caplog.handler)
    yield caplog
    vllm.removeHandler(caplog.handler)
