"""What benchmarks have in common: options, how a result was made, its JSON file, the headline."""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any


def options(module_doc: str | None, quick: str | None = None) -> argparse.ArgumentParser:
    """A parser described by a docstring's first line, with --json and, where `quick` says what
    it does, --quick."""
    parser = argparse.ArgumentParser(description=(module_doc or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write settings, figures and headline here")
    if quick is not None:
        parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def machine() -> str:
    """Cores and architecture, e.g. `2 cores x86_64`."""
    return f"{os.cpu_count()} cores {platform.machine()}"


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Replace the file by `record` and how it was `made`; a kill leaves the old or the new one."""
    made = {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "machine": machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    staged.write_text(json.dumps({**record, "made": made}, indent=1) + "\n", encoding="utf-8")
    staged.rename(path)


def show_headline(headline: Mapping[str, Any]) -> None:
    """The figures that count, on one line."""
    print("headline: " + ", ".join(f"{name} {value}" for name, value in headline.items()))


def report(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write a record to `path`, if there is one, and print its `headline`."""
    if path:
        write_record(path, record)
    show_headline(record["headline"])
