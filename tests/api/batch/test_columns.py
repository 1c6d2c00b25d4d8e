"""What is added to a row of results."""

import pyarrow as pa
import pytest

from api.batch.columns import ResultColumns
from ifedicl_serve.errors import DataError

COLUMNS = ResultColumns(("bad", "good"), "p_")


def test_a_row_has_an_error_or_everything_else():
    rows = pa.table({"text": ["x", None, "y"]})
    table = COLUMNS.add(rows, [None, "null", None], [[0.25, 0.75], [0.9, 0.1]])
    assert table.to_pylist() == [
        dict(text="x", p_label="good", p_score=0.75, p_score_bad=0.25, p_score_good=0.75)
        | {"p_error": None},
        dict(text=None, p_label=None, p_score=None, p_score_bad=None, p_score_good=None)
        | {"p_error": "null"},
        dict(text="y", p_label="bad", p_score=0.9, p_score_bad=0.9, p_score_good=0.1)
        | {"p_error": None},
    ]


def test_columns_that_are_there_already_are_refused():
    with pytest.raises(DataError, match="columns 'p_score', 'p_error', .*--prefix"):
        COLUMNS.refuse_taken(["p_error", "text", "p_score"])
