"""What the documents say of the code is so: blocks that cannot run here, and every link, path,
flag, route, variable and figure that they name. Where each block belongs is in `documents.py`."""

import json
import re
import shlex
import subprocess
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path

import pytest
import typer
import vllm.entrypoints
import vllm.envs
import yaml
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser

from api.serve import _parser
from ifedicl_serve import __version__
from ifedicl_serve.cli import COMMANDS
from ifedicl_serve.command import option_groups
from tests.documents import DOCUMENTS, PLACES, ROOT, TRACKED, Block, blocks, placed

PAGES = [name for name in DOCUMENTS if "/" not in name or name.startswith("docs/")]
FOLDERS = {str(parent) for name in TRACKED for parent in Path(name).parents}
TOPS = "|".join(sorted(name for name in FOLDERS if "/" not in name and not name.startswith(".")))
SOURCES = "\n".join(
    (ROOT / name).read_text()
    for name in TRACKED
    if Path(name).suffix in (".py", ".yaml", ".yml") or name in ("Makefile", "Dockerfile")
)
DEPLOYED = "".join(
    (ROOT / "tests" / "federation" / name).read_text()
    for name in ("deployment.py", "test_deployment.py")
)


def code(document: str) -> list[str]:
    """Every block and every piece of a line that is set as code."""
    text = re.sub(r"^```.*?^```$", "", DOCUMENTS[document], flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [*(block.commands for block in blocks(document)), *spans]


# -- blocks


def test_every_block_has_a_place_and_every_place_a_block():
    with_blocks = [document for document in DOCUMENTS if blocks(document)]
    assert list(PLACES) == with_blocks
    for document, rows in PLACES.items():
        begins = [block.text for block in blocks(document)]
        assert len(begins) == len(rows), document
        for text, (begin, _) in zip(begins, rows, strict=True):
            assert text.startswith(begin), (document, text)


def commands(block: Block) -> list[list[str]]:
    """Its commands as words, without the variables that are set before them."""
    found = []
    for line in block.commands.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|\|", line):
            words = shlex.split(command, comments=True)
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            found.append(words)
    return found


def parsed_by_ifedicl(words: list[str]) -> None:
    """Its parser takes the command as it stands; what it leaves is a flag of vLLM's."""
    name, *arguments = words
    if name == "serve":
        _, rest = _parser().parse_known_args(arguments)
    else:
        rest = parser_of(name).make_context(name, arguments).args
    assert flags(rest) <= flags_of_vllm()


def run_by_the_federations_tests(words: list[str]) -> None:
    named = [word for word in words if not word.startswith("-")]
    if words[0] == "flwr":
        assert ", ".join(f'"{word}"' for word in named[:3]) in DEPLOYED
    assert [flag for flag in flags(words) if flag not in DEPLOYED] == []


def named_by_the_manifests(words: list[str]) -> None:
    files = [*(ROOT / "deploy" / "kubernetes").rglob("*.yaml")]
    manifests = "".join(path.read_text() for path in files)
    known = re.findall(r"[\w.-]+", manifests)
    names = re.findall(r"ifedicl[\w-]*|(?<=--from-file=)\S+", " ".join(words))
    assert [name for name in names if name not in known] == []


def built_by_the_dockerfile(words: list[str]) -> None:
    dockerfile, command = (ROOT / "Dockerfile").read_text(), " ".join(words)
    (target,) = set(re.findall(r"ifedicl-serve:(\w+)", command))
    assert f" AS {target}\n" in dockerfile
    assert [path for path in re.findall(r":(/\w+)", command) if path not in dockerfile] == []


def known_to_pip(words: list[str]) -> None:
    (extras,) = re.findall(r"\.\[(.+)\]", words[-1])
    assert set(extras.split(",")) <= set(metadata("ifedicl-serve").get_all("Provides-Extra"))


def known_to_make(words: list[str]) -> None:
    done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


# By program; the paths that any of them names are looked up below.
COMPARED = {
    "ifedicl": lambda words: parsed_by_ifedicl(words[1:]),
    "flower-superlink": run_by_the_federations_tests,
    "flwr": run_by_the_federations_tests,
    "kubectl": named_by_the_manifests,
    "docker": built_by_the_dockerfile,
    "pip": known_to_pip,
    "make": known_to_make,
    ".venv/bin/pytest": lambda words: None,
    "export": lambda words: None,
}


@pytest.mark.parametrize("block", placed("compared"), ids=lambda block: block.document)
def test_a_block_that_cannot_run_here_is_compared_with_the_code(block):
    subprocess.run(["bash", "-n", "-c", block.commands], check=True)
    for words in commands(block):
        COMPARED[words[0]](words)


def test_a_data_owners_command_is_the_one_that_the_federations_tests_run():
    federating = [words for block in placed("compared") for words in commands(block)]
    ours = [
        words
        for words in federating
        if words[:2] in (["ifedicl", "client"], ["ifedicl", "federate"])
    ]
    assert len(ours) == 2
    for words in ours:
        run_by_the_federations_tests(words)


def test_make_test_runs_all_tests():
    dry = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True)
    assert "pytest" in dry.stdout


def test_the_readmes_tree_has_every_room():
    (tree,) = placed("tree")
    named, top = set(), ""
    for indent, name in re.findall(r"^( *)([\w/]+)/ ", tree.text, re.MULTILINE):
        top = top if indent else name
        named.add(f"{top}/{name}" if indent else name)
    packages = ("ifedicl_serve", "calibration", "api")
    rooms = {name for name in FOLDERS if name.count("/") == 1 and name.startswith(packages)}
    tops = {name for name in FOLDERS if "/" not in name and not name.startswith(".")}
    assert named == rooms | tops - {"requirements"}


# -- names


def parser_of(name: str) -> typer.core.TyperCommand:
    """The parser of a subcommand that typer parses."""
    module, function = COMMANDS[name].target.split(":")
    command = option_groups(getattr(import_module(module), f"_{function}"))
    app = typer.Typer(add_completion=False)
    loose = {"allow_extra_args": True, "ignore_unknown_options": True} if name == "classify" else {}
    app.command(context_settings=loose)(command)
    return typer.main.get_command(app)


def flags(words: list[str]) -> set[str]:
    return {re.split("[=.]", word)[0] for word in words if word.startswith("--") and word != "--"}


def flags_of_vllm() -> set[str]:
    parser = ServeSubcommand().subparser_init(FlexibleArgumentParser().add_subparsers())
    return {*parser._option_string_actions}


@pytest.fixture(scope="module")
def known_flags() -> dict[str, set[str]]:
    """Of each subcommand; what reads vLLM's flags has them too."""
    ours = {
        name: {flag for parameter in parser_of(name).params for flag in parameter.opts}
        for name in COMMANDS.keys() - {"serve"}
    }
    ours["serve"] = {*_parser()._option_string_actions} | flags_of_vllm()
    ours["classify"] |= flags_of_vllm()
    return ours


@pytest.mark.parametrize("document", PAGES)
def test_every_flag_is_one_of_the_commands(document, known_flags):
    for text in code(document):
        words = text.split()
        if words[0] == "ifedicl" and len(words) > 1:
            assert flags(words) <= known_flags[words[1]], text
        elif words[0].startswith("--"):
            assert flags(words) <= set.union(*known_flags.values()), text


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", DOCUMENTS[document]):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent.joinpath(path).resolve() if path else ROOT / document
        name = str(target.relative_to(ROOT))
        assert name in TRACKED or name in FOLDERS, link
        assert not anchor or anchor in anchors(name), link


def anchors(document: str) -> set[str]:
    """Of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", DOCUMENTS[document], re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document):
    found = [
        path.rstrip("./")
        for text in code(document)
        for path in re.findall(rf"(?<![\w./-])(?:{TOPS})(?:/[\w.-]+)+", text)
    ]
    assert [path for path in found if path not in TRACKED and path not in FOLDERS] == []


@pytest.mark.parametrize("document", PAGES)
def test_what_is_said_to_be_in_a_file_is_defined_there(document):
    """As in "`read_out` (`ifedicl_serve/tasks/task.py`)"."""
    for name, path in re.findall(r"`(\w+)`\s\(`([\w/]+\.py)`\)", DOCUMENTS[document]):
        assert re.search(rf"\b(?:def|class) {name}\b", (ROOT / path).read_text()), (name, path)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_variable_is_read_by_us_or_by_vllm(document):
    known = {*re.findall(r"IFEDICL_\w+", SOURCES), *vllm.envs.environment_variables}
    named = re.findall(r"\b(?:IFEDICL|VLLM)_[A-Z0-9_]+\b", DOCUMENTS[document])
    assert set(named) - known == set()


@pytest.mark.parametrize("document", PAGES)
def test_every_target_of_make_exists(document):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [target for text in code(document) for target in re.findall(r"^make (\w\S*)", text)]
    assert set(named) <= set(targets)


@pytest.mark.parametrize("document", PAGES)
def test_every_route_is_served(document):
    ours = json.loads((ROOT / "tests" / "api" / "openapi.json").read_text())["paths"]
    front_end = Path(vllm.entrypoints.__file__).parent
    theirs = "".join(path.read_text() for path in front_end.rglob("*.py"))
    asked = re.compile(r"(?:GET |POST |PUT |DELETE |127.0.0.1:8000|^(?=/v1))(/[\w/{}-]*)")
    for path in [path for text in code(document) for path in asked.findall(text)]:
        matched = any(re.fullmatch(re.sub(r"{\w+}", r"[^/]+", template), path) for template in ours)
        assert path == "/" or matched or f'"{path}"' in theirs, path


# -- figures and lists


def test_the_readmes_tables_are_those_of_the_results():
    """Row by row, as the benchmarks' reports have them."""
    results = "\n".join(
        text for name, text in DOCUMENTS.items() if name.startswith("bench/results")
    )
    measured = DOCUMENTS["README.md"].partition("## Measured")[2].partition("\n## ")[0]
    rows = [
        row
        for row in re.findall(r"^\|.*\|$", measured, re.MULTILINE)
        if " ms " in row or "±" in row
    ]
    assert len(rows) > 8
    assert [row for row in rows if row not in results] == []


def test_the_runbook_has_every_alert_and_no_other():
    (group,) = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    alerts = [rule["alert"] for rule in group["rules"]]
    runbook = DOCUMENTS["docs/operations.md"]
    assert re.findall(r"^\*\*(IFedICL\w+)\.\*\*", runbook, re.MULTILINE) == alerts


def test_the_changelog_has_the_version():
    versions = re.findall(r"^## \[(.+?)\]", DOCUMENTS["CHANGELOG.md"], re.MULTILINE)
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
