"""What is written for operators and contributors names what there is."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ifedicl_serve import __version__

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
DOCUMENTS = ["CHANGELOG.md", "CONTRIBUTING.md", "docs/operations.md"]
TRACKED = set(
    subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
)


def test_the_runbook_has_every_alert_and_no_other():
    (group,) = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    alerts = [rule["alert"] for rule in group["rules"]]
    assert re.findall(r"^\*\*(IFedICL\w+)\.\*\*", OPERATIONS, re.MULTILINE) == alerts


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document):
    text = (ROOT / document).read_text()
    named = re.findall(r"`((?:\w[\w.-]*/)+[\w.-]+\.\w+)`", text)
    linked = re.findall(r"\]\(((?!http)[^)]+)\)", text)
    found = {((ROOT / document).parent / link).resolve() for link in linked}
    assert [path for path in found if not path.exists()] == []
    assert [path for path in named if path not in TRACKED] == []


def test_the_changelog_has_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased" and versions[1] == __version__


def test_ci_runs_what_people_run():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    assert any(command.startswith(".ci/run") for command in commands)
    used = [
        step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step
    ]
    assert all(re.search(r"@v\d+$", action) for action in used)
    targets = re.findall(r"^FROM \S+ AS (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(workflow["jobs"]["image"]["strategy"]["matrix"]["target"]) == {*targets} - {"wheel"}
