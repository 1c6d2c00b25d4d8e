"""The documents' blocks, and which test runs each as it stands or compares it with the code."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.splitlines()
DOCUMENTS = {name: (ROOT / name).read_text() for name in TRACKED if name.endswith(".md")}

# In the order of the pages, which is the order in which they run: how each block begins, and where
# it is run or compared. `test_documents.py` fails on a block that is not here.
#   demo, server   test_demo.py: set up, or asked of the server that `make serve` starts
#   commands       test_readme.py: one after another in the repository's root
#   signing        test_readme.py: in a folder with two tasks
#   generating     engine/test_live_server.py: asked of its server
#   compared       test_documents.py: cannot run here; each command and flag is one that there is
#   tree           test_documents.py: folders
PLACES = {
    "CONTRIBUTING.md": [("$ .venv/bin/pytest", "compared")],
    "README.md": [
        ("make demo", "demo"),
        ("make test", "compared"),
        (".venv/bin/ifedicl calibrate", "commands"),
        ("make serve", "demo"),
        ("curl http", "server"),
        ("ifedicl_serve/ ", "tree"),
    ],
    "docs/calibrating.md": [
        ("$ pip install '.[calibration]'", "compared"),
        ("$ ifedicl calibrate --model MODEL", "compared"),
        (".venv/bin/ifedicl inspect", "commands"),
        (".venv/bin/ifedicl evaluate", "commands"),
        (".venv/bin/ifedicl calibrate", "commands"),
        ("$ ifedicl renew", "compared"),
    ],
    "docs/federating.md": [
        (".venv/bin/ifedicl partition", "commands"),
        ("$ flower-superlink", "compared"),
        ("$ ifedicl client", "compared"),
    ],
    "docs/operations.md": [
        ("$ docker build", "compared"),
        ("$ kubectl create", "compared"),
        ("$ openssl genpkey", "signing"),
        ("$ cd tasks/banking", "signing"),
    ],
    "docs/serving.md": [
        ("$ pip install '.[vllm]'", "compared"),
        ("from ifedicl_serve.client import", "server"),
        ("from ifedicl_serve.client.sklearn import", "server"),
        ("VLLM_CPU_KVCACHE_SPACE=1 .venv/bin/ifedicl classify", "commands"),
        ("$ IFEDICL_ADMIN_KEY=$KEY ifedicl serve", "compared"),
        ("$ cd banking && curl -X PUT", "server"),
        ("import json", "server"),
        ("$ ifedicl serve --runner generate", "compared"),
        ("$ curl http://127.0.0.1:8000/v1/completions", "generating"),
    ],
    "examples/base_model/README.md": [("export OMP_WAIT_POLICY", "compared")],
}


@dataclass(frozen=True)
class Block:
    document: str
    language: str
    text: str

    @property
    def commands(self) -> str:
        """What is typed: of a console, the lines with a prompt and those that continue them."""
        if self.language != "console":
            return self.text
        return "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)", self.text, re.MULTILINE))


def blocks(document: str) -> list[Block]:
    """A document's blocks, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENTS[document], re.DOTALL | re.MULTILINE)
    return [Block(document, language, text) for language, text in found]


def placed(place: str) -> list[Block]:
    """The blocks that belong to a place, in the order of the pages."""
    return [
        block
        for document, rows in PLACES.items()
        for block, (_, where) in zip(blocks(document), rows, strict=True)
        if where == place
    ]


def run(block: Block, folder: Path = ROOT, url: str = "", **environment: str) -> str:
    """Run a block in a folder, with `url` in the place of its server; fails the test with its
    output."""
    command = block.commands
    if url:
        command = command.replace("http://127.0.0.1:8000", url)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=os.environ | environment | {"PATH": path},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout
