"""The wheel, built without a network: it holds what belongs, and runs where it is installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ifedicl_serve import __version__

ROOT = Path(__file__).parents[2]
PACKAGES = ("ifedicl_serve", "calibration", "api")


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked():
    return run("git", "ls-files", cwd=ROOT).splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Of the files in git, with this environment's setuptools: nothing is downloaded."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
        "--wheel-dir", out, source,
    )  # fmt: skip
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    return zipfile.ZipFile(wheel).namelist()


def test_it_is_named_by_its_version(wheel):
    assert wheel.name == f"ifedicl_serve-{__version__}-py3-none-any.whl"


def test_it_holds_every_file_of_the_packages_and_nothing_else(names):
    of_packages = {name for name in tracked() if name.split("/")[0] in PACKAGES}
    metadata = f"ifedicl_serve-{__version__}.dist-info/"
    assert {name for name in names if not name.startswith(metadata)} == of_packages
    assert "calibration/federation/app/pyproject.toml" in names
    assert "api/static/index.html" in names
    assert f"{metadata}licenses/LICENSE" in names


def test_it_runs_from_a_folder_of_its_own(wheel, tmp_path):
    target = tmp_path / "installed"
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target",
        target, wheel,
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [target / "bin" / "ifedicl", "--version"]
    assert run(*command, cwd=tmp_path, env=environment) == f"{__version__}\n"
    where = "import ifedicl_serve, api, calibration as c; print(ifedicl_serve.__file__, c.__file__)"
    printed = run(sys.executable, "-c", where, cwd=tmp_path, env=environment)
    assert all(path.startswith(str(target)) for path in printed.split())


def test_vllm_finds_its_plugins(wheel):
    (entry_points,) = [
        n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("entry_points.txt")
    ]
    text = zipfile.ZipFile(wheel).read(entry_points).decode()
    for group in ("console_scripts", "vllm.general_plugins", "vllm.endpoint_plugins"):
        assert f"[{group}]" in text
