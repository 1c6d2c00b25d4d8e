"""Reads the corpora: gzip files of documents separated by a line `<|endoftext|>`.

Knows the file layout only; see SOURCES.md beside the files for licences.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

SEPARATOR = "<|endoftext|>"
OPENSTAX = "openstax_ccby"
BOOKS = "classic_books_1870_1928"


def documents(folder: Path, name: str, split: str = "train") -> Iterator[str]:
    """The documents of one corpus file, in file order."""
    path = folder / f"{name}.{split}.txt.gz"
    if not path.exists():
        raise SystemExit(f"no corpus file {path}; pass the folder that holds it as --corpus")
    lines: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip() == SEPARATOR:
                yield "".join(lines).strip()
                lines = []
            else:
                lines.append(line)
    if lines:
        yield "".join(lines).strip()
