"""No room reaches up: inside a package a folder or file imports only what stands before it here.

Read from the sources, lazy imports included. Who may import whom between packages is in
`test_imports.py`.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "ifedicl_serve": "errors bearer files checkpoint contract fitting tasks schema client plugin "
    "command cli",
    "calibration": "ladder settings data task model readout privacy stages state calibrate "
    "result run federation command",
    "calibration/federation": "scripts wire client coordinator simulate",
    "api": "observe undecoded errors access options limits classify http follow vllm batch plugin "
    "serve",
}


def rooms_of(folder: Path) -> set[str]:
    """Its Python files and the folders that hold some."""
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return files | {path.parent.name for path in folder.glob("*/__init__.py")}


def imported(path: Path, package: str) -> set[str]:
    """What a file imports of a package, by the first name below it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            modules |= {f"{package}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    below = (name.removeprefix(f"{package}.") for name in modules if name.startswith(f"{package}."))
    return {name.partition(".")[0] for name in below}


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_reaches_up(package):
    folder, order = ROOT / package, ROOMS[package].split()
    assert rooms_of(folder) == set(order), "a room was added or left: give it its place above"
    for path in folder.rglob("*.py"):
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        named = imported(path, package.replace("/", ".")) & set(order)
        above = {other for other in named if order.index(other) > order.index(room)}
        assert not above, f"{path.relative_to(ROOT)} imports {above}"
