"""All contact with vLLM is in sight: who may import it, and who may change what is its own."""

import ast

import pytest

from tests.upstream.contact import ROOMS, ROOT, changes, imports, sources
from tests.upstream.patches import NO_PATCH, PATCHES, file_of
from tests.upstream.surface import SURFACE

OBITUARY = ("Upstream:", "Why:", "Delete when")
# Files outside of the two rooms that import vLLM's names, to call or to extend them.
CALLERS = {
    "ifedicl_serve/plugin/__init__.py",
    "ifedicl_serve/plugin/models.py",
    "ifedicl_serve/plugin/label_pooler.py",
    "ifedicl_serve/plugin/pipeline.py",
    "ifedicl_serve/plugin/runner_v2.py",
    "api/classify/engine.py",
    "api/batch/offline.py",
}


def name(path):
    return path.relative_to(ROOT).as_posix()


def in_a_room(file):
    return file.startswith(ROOMS)


def changing():
    """Our files that change something that is not theirs."""
    files = sources("ifedicl_serve/plugin", "api")
    return {name(path) for path in files if changes(path.read_text())}


def test_no_other_file_imports_vllm():
    files = sources("ifedicl_serve", "api", "calibration")
    importing = {name(path) for path in files if imports(path)}
    assert {file for file in importing if not in_a_room(file)} == CALLERS


def test_every_import_of_vllm_is_in_the_table():
    for path in sources("ifedicl_serve", "api"):
        rows = [row.name for row in SURFACE.get(name(path), [])]
        listed = {":".join((row.split(":")[0], row.split(":")[1].split(".")[0])) for row in rows}
        assert imports(path) <= listed, name(path)


def test_what_changes_vllms_own_lies_in_the_two_rooms():
    assert {file for file in changing() if not in_a_room(file)} <= NO_PATCH.keys()


def test_every_patch_is_listed_and_every_listed_one_is_there():
    of_rooms = {file for file in changing() if in_a_room(file)} - NO_PATCH.keys()
    assert of_rooms == set(map(file_of, PATCHES))
    assert NO_PATCH.keys() <= changing()  # else the exception is not needed


@pytest.mark.parametrize("patch", PATCHES)
def test_every_patch_has_its_obituary(patch):
    tree = ast.parse((ROOT / file_of(patch)).read_text())
    (function,) = (
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == patch.partition(":")[2]
    )
    said = ast.get_docstring(function)
    found = [said.find(words) for words in OBITUARY]
    assert -1 not in found and found == sorted(found), said


# -- what is found


@pytest.mark.parametrize(
    "change",
    [
        "client.shutdown = ours",
        "client.config.dtype = None",
        "state.openai_serving_chat = ours",
        "client.loggers.append(ours)",
        "loggers = client.loggers\n    loggers.append(ours)",
        "client.hooks['end'] = ours",
        "del client.shutdown",
        "setattr(ours, 'shutdown', None)",
        "ours.__class__ = None",
        "ours.__dict__.pop('forward')",
        "os.environ['VLLM_PLUGINS'] = ''",
        "os.environ.setdefault('VLLM_PLUGINS', '')",
        "Request.hash = ours",
        "request.salt = ours",
        "self.serving.models = ours",
        "def inner():\n        client.shutdown = ours",
    ],
)
def test_a_change_is_found(change):
    assert len(changes(FUNCTION.format(change))) == 1


@pytest.mark.parametrize(
    "harmless",
    [
        "self.client = client",
        "ours.name = client.name",
        "app.state.key = ours",
        "state.ifedicl_registry = ours",
        "names = []\n    names.append(client.name)",
        "client.shutdown()",
        "loggers = list(client.loggers)\n    loggers.append(ours)",
        "os.environ.get('VLLM_PLUGINS')",
    ],
)
def test_what_changes_only_ours_is_not_found(harmless):
    assert changes(FUNCTION.format(harmless)) == []


FUNCTION = """
import os
from vllm.v1.request import Request

def patch(self, client, state: Any, request: Request, app: FastAPI):
    ours = Ours()
    {}
"""


def test_an_import_in_a_function_is_found(tmp_path):
    (tmp_path / "lazy.py").write_text("def f():\n    from vllm.v1.request import Request as R\n")
    (tmp_path / "whole.py").write_text("if True:\n    import vllm.envs\n")
    (tmp_path / "ours.py").write_text("from api.vllm import drain\nimport vllms\n")
    assert imports(tmp_path / "lazy.py") == {"vllm.v1.request:Request"}
    assert imports(tmp_path / "whole.py") == {"vllm.envs:"}
    assert imports(tmp_path / "ours.py") == set()
