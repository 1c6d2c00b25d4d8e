"""What is found in a vLLM's sources, on made-up ones."""

from zipfile import ZipFile

import pytest

from tests.upstream import __main__ as command
from tests.upstream import check as checker
from tests.upstream.check import check, differs, missing, report
from tests.upstream.surface.row import Row
from tests.upstream.trees import Tree

REQUEST = '''
from typing import TYPE_CHECKING
from .base import Base, Limits as Bounds
from vllm.everything import *

LIMIT = 128
GROUP: str = "vllm.plugins"
if TYPE_CHECKING:
    SWITCH: bool = False
try:
    from elsewhere import torch
except ImportError:
    torch = None


class Request(Base[int]):
    """A request."""

    kind: str = "request"

    def __init__(self, ids, *, salt=None, **options):
        self.ids = ids
        self.limits: Bounds = Bounds()

    @classmethod
    def read(cls, message, /, hasher, *rest): ...

    async def run(self, state):
        state.finished = True
        return step(self, final=True, reason="--stop")


class Maker:
    def make(self): ...


registry = Maker()
'''
BASE = """
class Base:
    priority = 0
    def end(self, reason=None):
        self.ended = True

class Limits:
    most = 1
"""


@pytest.fixture
def tree(tmp_path):
    return written(tmp_path / "one", {"request": REQUEST, "base": BASE, "everything": "X = 1"})


def written(root, modules):
    (root / "vllm").mkdir(parents=True)
    (root / "vllm" / "__init__.py").write_text("from .request import Request")
    for name, source in modules.items():
        (root / "vllm" / f"{name}.py").write_text(source)
    return Tree(root)


def row(name, **asked):
    return Row(name, "a role", **asked)


@pytest.mark.parametrize(
    "there",
    [
        row("vllm.request:Request", has="kind ids read run limits"),
        row("vllm.request:Request", has="priority end ended"),  # inherited
        row("vllm.request:registry", has="make"),  # of an object's class
        row("vllm:Request", has="ids"),  # through an import
        row("vllm.request:Bounds", has="most"),  # under another name
        row("vllm.request:X"),  # through a star
        row("vllm:request.LIMIT", formerly="vllm.request:LIMIT"),
        row("vllm.request:SWITCH"),  # in a branch
        row("vllm.request:torch"),
        row("vllm.request:GROUP", equals="vllm.plugins"),
        row("vllm.request:Request.read", takes="cls, message, hasher, *rest"),
        row("vllm.request:Request.__init__", takes="self, ids, *, salt=, **options"),
        row("vllm.request:Request.__init__", accepts="salt ids"),
        row("vllm.request:Request.end", takes="self, reason="),
        row("vllm.request:Request.run", has="step finished final --stop"),
    ],
    ids=lambda asked: getattr(asked, "name", asked),
)
def test_what_is_there_is_found(tree, there):
    assert list(missing(tree, there)) == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (row("vllm.nothing:Request"), "it is not there"),
        (row("vllm.request:Response"), "it is not there"),
        (row("vllm.request:Request.stop"), "it is not there"),
        (row("vllm.request:typing.Any"), "it is not there"),
        (row("vllm.request:Request", has="salt"), "it has no salt"),
        (row("vllm.request:Request.run", has="stopped"), "it has no stopped"),
        (row("vllm.request:GROUP", equals="x"), "it is 'vllm.plugins', not 'x'"),
        (row("vllm.request:LIMIT", takes="self"), "it takes (None), not (self)"),
        (
            row("vllm.request:Request.read", takes="cls, message"),
            "it takes (cls, message, hasher, *rest), not (cls, message)",
        ),
        (
            row("vllm.request:Request.end", takes="self, reason"),
            "it takes (self, reason=), not (self, reason)",
        ),
        (row("vllm.request:Request.end", accepts="why"), "it takes no why"),
    ],
    ids=lambda asked: getattr(asked, "name", asked),
)
def test_what_is_missing_is_said(tree, asked, words):
    assert list(missing(tree, asked)) == [words]


def test_code_that_does_something_else_is_to_be_read_again(tree, tmp_path):
    changed = REQUEST.replace("state.finished = True", "state.finished = self.ids")
    changed = changed.replace('"""A request."""', '"""One."""')
    changed = changed.replace("self.ids = ids", "self.ids  =  ids  # said otherwise")
    moved = {"request": changed.replace("from .base", "from .low"), "low": BASE}
    other = written(tmp_path / "two", moved | {"everything": ""})
    asked = row("vllm.request:Request", has="kind __init__ read run end")
    assert list(differs(other, tree, asked)) == ["run in vllm.request does something else"]
    assert list(differs(other, tree, row("vllm.request:Bounds"))) == ["it was in vllm.base"]
    assert list(differs(tree, tree, asked)) == list(differs(tree, None, asked)) == []


def test_the_list_says_what_is_missing_what_differs_and_for_what(tree, tmp_path, monkeypatch):
    rows = [row("vllm.request:Gone"), row("vllm.request:Request.end"), row("vllm.request:LIMIT")]
    monkeypatch.setattr(checker, "SURFACE", {"api/ours.py": rows})
    other = written(tmp_path / "two", {"request": REQUEST, "base": BASE.replace("True", "reason")})
    assert report(check(tree, other), "1.0") == (
        "there: 2 of 3 rows, in vLLM 1.0\n"
        "  api/ours.py\n"
        "    Request.end, LIMIT\n"
        "differs, read it again: 1\n"
        "  vllm.request:Request.end\n"
        "    for api/ours.py: a role\n"
        "    Request.end in vllm.base does something else\n"
        "MISSING: 1\n"
        "  vllm.request:Gone\n"
        "    for api/ours.py: a role\n"
        "    it is not there"
    )


@pytest.mark.parametrize(("name", "status"), [("vllm.request:Request", 0), ("vllm.request:No", 1)])
def test_a_wheel_is_read_and_not_run(tree, tmp_path, monkeypatch, capsys, name, status):
    monkeypatch.setattr(checker, "SURFACE", {"api/ours.py": [row(name)]})
    monkeypatch.setattr(command, "installed", lambda: tree)
    wheel = tmp_path / "vllm-9.9.0-cp38-abi3-manylinux_2_28_x86_64.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("vllm/__init__.py", "raise SystemExit('it was run')")
        archive.writestr("vllm/request.py", REQUEST)
        archive.writestr("vllm/_C.abi3.so", "machine code")
        archive.writestr("other/request.py", "")
    assert command.main(wheel, tmp_path / "unpacked") == status
    assert f"there: {1 - status} of 1 rows, in vLLM 9.9.0" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "unpacked").rglob("*") if path.is_file()}
    assert files == {"__init__.py", "request.py"}
