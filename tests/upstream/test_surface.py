"""The table of what we rely on is true of the vLLM of this environment, and says nothing idle."""

import re

from ifedicl_serve.contract.architectures import ARCHITECTURES
from tests.upstream.__main__ import installed
from tests.upstream.check import check
from tests.upstream.contact import ROOT
from tests.upstream.surface import SURFACE
from tests.upstream.surface.decoders import DECODERS, THROUGH_TRANSFORMERS

ROWS = [(file, row) for file, rows in SURFACE.items() for row in rows]


def test_all_of_it_is_there():
    checked = check(installed())
    assert [(one.row.name, one.missing) for one in checked if one.missing] == []
    assert not any(one.differs for one in checked)


def test_it_says_nothing_twice():
    assert len({(file, row) for file, row in ROWS}) == len(ROWS)


def test_every_row_is_in_use_where_it_says():
    """Its file names what the row asks for, or at least the thing."""
    for file, row in ROWS:
        source = (ROOT / file).read_text()
        asked = {*row.has.split(), *row.accepts.split()} or {
            row.equals or re.split("[:.]", row.name)[-1]
        }
        words = (re.escape(name.lstrip("-")) for name in asked)
        assert [word for word in words if not re.search(rf"\b{word}\b", source)] == [], row.name


def test_it_knows_every_architecture():
    assert {*DECODERS, *THROUGH_TRANSFORMERS} == set(ARCHITECTURES)
