"""Order and profile of all tests, and what several folders of them use.

Property tests are quick, and the same on every run, unless IFEDICL_EXAMPLES asks for more.
"""

import ast
import logging
import os
import sys
from pathlib import Path

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

TESTS = Path(__file__).parent
# Chains of commands, minutes each: begun last, one would run alone while the other process idles.
CHAINS = ("test_deployment.py", "test_demo.py", "test_readme.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "leave out chains of commands and all files that import vllm, which nothing can then"
    parser.addoption("--without-vllm", action="store_true", help=about)


def pytest_configure(config: pytest.Config) -> None:
    """A test that reaches vllm by way of our code fails here; its file is to import it itself."""
    if config.getoption("without_vllm"):
        sys.modules["vllm"] = None  # type: ignore[assignment]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """None lets others decide. Importing vllm takes each of two processes ten seconds."""
    if not config.getoption("without_vllm") or collection_path.suffix != ".py":
        return None
    return needs_vllm(collection_path) or None


def needs_vllm(path: Path) -> bool:
    """By its name, its folder or its imports, lazy ones included."""
    if path.name in CHAINS or {"engine", "upstream", "vllm"} & set(path.relative_to(TESTS).parts):
        return True
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return any(module.partition(".")[0] == "vllm" for module in imported)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then those with engines, then the rest."""

    def turn(item: pytest.Item) -> int:
        if item.path.name in CHAINS:
            return CHAINS.index(item.path.name)
        return len(CHAINS) + ("engine" not in item.path.relative_to(TESTS).parts)

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
