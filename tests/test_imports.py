"""Who may import whom, checked in fresh interpreters (DESIGN.md, "Packages").

A module that is in `sys.modules` after an import was imported, directly or not.
"""

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import calibration
import ifedicl_serve

ROOT = Path(__file__).resolve().parents[1]
TINY_QWEN2 = ROOT / "examples" / "tiny_qwen2"
# The half of the plugin that subclasses vLLM's own classes; vLLM loads it by name.
NEEDS_VLLM = {
    f"ifedicl_serve.plugin.{name}"
    for name in (
        "models",
        "label_pooler",
        "pipeline",
        "runner_v2",
        "patches.sites",
        "patches.stage_marks",
    )
}

# What reads and writes files of rows; all else does without.
NEEDS_PYARROW = {
    f"ifedicl_serve.files.{name}" for name in ("tables", "table_formats", "table_writers")
}


def python(code):
    """Run `code` in a fresh interpreter; returns what it printed."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def loaded_by(code):
    """The top-level packages in memory after `code`."""
    printed = python(f"{code}\nimport sys; print(); print(*sys.modules)")
    return {name.partition(".")[0] for name in printed.splitlines()[-1].split()}


def modules_of(package):
    """All its modules, without importing any but packages."""
    return {
        module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    }


def import_all(modules):
    return "\n".join(f"import {module}" for module in sorted(modules))


def test_the_contract_imports_no_vllm_no_fastapi_no_pyarrow_and_nobody_above():
    contract = modules_of(ifedicl_serve) - NEEDS_VLLM - NEEDS_PYARROW
    assert {"ifedicl_serve.contract.artifact", "ifedicl_serve.plugin.slots"} <= contract
    loaded = loaded_by(import_all(contract))
    assert loaded.isdisjoint({"vllm", "fastapi", "pyarrow", "api", "calibration"})


def test_files_of_rows_need_pyarrow_and_no_torch():
    loaded = loaded_by(import_all(NEEDS_PYARROW))
    assert "pyarrow" in loaded
    assert loaded.isdisjoint({"torch", "vllm", "transformers", "fastapi", "api", "calibration"})


def test_the_client_needs_httpx_and_pydantic_alone():
    """Its own modules, the contract's errors and the wire's types; not what `serve` needs."""
    needed = loaded_by("import httpx; from pydantic import BaseModel, Field")
    new = loaded_by("import ifedicl_serve.client") - needed - sys.stdlib_module_names
    assert {name for name in new if not name.startswith("_")} == {"ifedicl_serve"}


def test_the_scikit_learn_classifier_needs_no_torch():
    loaded = loaded_by("import ifedicl_serve.client.sklearn")
    assert loaded.isdisjoint({"torch", "vllm", "transformers", "fastapi", "api", "calibration"})


def test_calibration_imports_no_vllm_no_fastapi_and_no_api():
    loaded = loaded_by(import_all(modules_of(calibration)))
    assert loaded.isdisjoint({"vllm", "fastapi", "api"})


def test_the_routes_import_no_vllm_and_no_calibration():
    """The whole of `api`, in fact: `engine` and `serve` import vllm when they are called."""
    loaded = loaded_by(
        "import api.http.classify, api.plugin, api.classify.engine, api.serve, api.batch.job"
    )
    assert "fastapi" in loaded
    assert loaded.isdisjoint({"vllm", "calibration"})


@pytest.mark.parametrize(
    "command", ["calibration.command.calibrate:calibrate", "api.batch.command:classify"]
)
def test_the_help_of_a_command_loads_nothing_heavy(command):
    module, function = command.split(":")
    loaded = loaded_by(f"from {module} import {function}; assert {function}(['--help']) == 0")
    assert loaded.isdisjoint({"torch", "vllm", "transformers", "pyarrow"})


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_command_table_loads_nothing_heavy(argument):
    loaded = loaded_by(
        f"import sys; sys.argv = ['ifedicl', {argument!r}]\n"
        "from ifedicl_serve.cli import main; assert main() == 0"
    )
    assert loaded.isdisjoint({"torch", "vllm", "transformers", "fastapi", "api", "calibration"})


def test_every_subcommand_is_there():
    """The table holds names, so a renamed function would be noticed only when called."""
    from ifedicl_serve.cli import COMMANDS

    for command in COMMANDS.values():
        module, function = command.target.split(":")
        assert callable(getattr(importlib.import_module(module), function)), command.target


def test_serve_refuses_its_arguments_without_starting_vllm():
    loaded = loaded_by(
        "from api.serve import main\n"
        f"assert main(['--model', {str(TINY_QWEN2)!r}, '--tasks', '/nonexistent']) == 1"
    )
    # prometheus_client decides when it is imported whether it counts in files, for all processes.
    assert loaded.isdisjoint({"vllm", "prometheus_client"})


def test_importing_the_plugin_is_free():
    """vLLM imports it in every process."""
    assert loaded_by("import ifedicl_serve.plugin").isdisjoint({"vllm", "torch", "numpy"})
