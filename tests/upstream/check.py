"""Every row of the table against a vLLM, and what differs from another one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from textwrap import wrap

from tests.upstream.surface import SURFACE
from tests.upstream.surface.row import Row
from tests.upstream.trees import Found, Tree

INDENT = {"initial_indent": "    ", "subsequent_indent": "    "}


@dataclass(frozen=True)
class Checked:
    """A row in a vLLM: what is missing of it, and which of its code is not as in the other vLLM."""

    file: str  # of ours
    row: Row
    missing: tuple[str, ...]
    differs: tuple[str, ...]


def check(tree: Tree, other: Tree | None = None) -> list[Checked]:
    """Every row in `tree`; without another vLLM nothing differs."""
    return [
        Checked(
            file, row, tuple(missing(tree, row)), tuple(dict.fromkeys(differs(tree, other, row)))
        )
        for file, rows in SURFACE.items()
        for row in rows
    ]


def find(tree: Tree, row: Row) -> Found | None:
    """What a row names, where it is or was."""
    return next(filter(None, map(tree.find, row.places)), None)


def missing(tree: Tree, row: Row) -> Iterator[str]:
    """What a row asks for and a vLLM does not have, in words."""
    found = find(tree, row)
    if found is None:
        yield "it is not there"
        return
    if row.takes is not None and found.signature != row.takes:
        yield f"it takes ({found.signature}), not ({row.takes})"
    if row.equals is not None and found.value != row.equals:
        yield f"it is {found.value!r}, not {row.equals!r}"
    for name in row.has.split():
        if not found.has(name):
            yield f"it has no {name}"
    accepted = (found.signature or "").replace("=", "").split(", ")
    for name in row.accepts.split():
        if name not in accepted:
            yield f"it takes no {name}"


def differs(tree: Tree, other: Tree | None, row: Row) -> Iterator[str]:
    """The row's functions whose code is not that of the other vLLM: to be read again."""
    if other is None:
        return
    new, old = find(tree, row), find(other, row)
    if not (new and old):
        return
    if new.module.name != old.module.name:
        yield f"it was in {old.module.name}"
    pairs = [(row.name, new, old)]
    if new.class_ and old.class_:
        pairs = [(name, new.member(name), old.member(name)) for name in row.has.split()]
    for name, new, old in pairs:
        if new and old and new.signature is not None and new.code != old.code:
            yield f"{name.rpartition(':')[2]} in {new.module.name} does something else"


def report(checked: Iterable[Checked], version: str) -> str:
    """For a person: what is there, what to read again, and what is missing."""
    checked = list(checked)
    there = [one for one in checked if not one.missing]
    lines = [f"there: {len(there)} of {len(checked)} rows, in vLLM {version}"]
    for file in dict.fromkeys(one.file for one in there):
        names = (one.row.name.rpartition(":")[2] for one in there if one.file == file)
        lines += [f"  {file}", *wrap(", ".join(names), 96, **INDENT)]
    for title, part in (("differs, read it again", "differs"), ("MISSING", "missing")):
        of_part = [one for one in checked if getattr(one, part)]
        lines.append(f"{title}: {len(of_part)}")
        for one in of_part:
            lines += [f"  {one.row.name}", f"    for {one.file}: {one.row.role}"]
            lines += [f"    {words}" for words in getattr(one, part)]
    return "\n".join(lines)
