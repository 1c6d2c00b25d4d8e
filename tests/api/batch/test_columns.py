"""What is added to a row of results."""

import pyarrow as pa
import pytest

from api.batch.columns import ResultColumns, columns_of, rows_with_errors, with_results
from ifedicl_serve.errors import DataError
from tests.ifedicl_serve.factory import make_spec

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


def test_of_several_tasks_each_has_its_name_before_its_columns():
    specs = [make_spec(name=name, labels=("a", "b")) for name in ("one", "two")]
    assert [of_task.prefix for of_task in columns_of(specs, "p_")] == ["p_one_", "p_two_"]
    assert [of_task.prefix for of_task in columns_of(specs[:1], "p_")] == ["p_"]


@pytest.mark.parametrize(("name", "label"), [("one", "a"), ("one_score", "a")])
def test_tasks_whose_columns_would_have_one_name_are_refused(name, label):
    specs = [
        make_spec(name="one", labels=("label", "b")),
        make_spec(name=name, labels=(label, "b")),
    ]
    with pytest.raises(DataError, match=f"tasks 'one' and '{name}' would both add .*'one_"):
        columns_of(specs, "")


def test_a_row_with_an_error_of_any_task_is_one():
    rows = pa.table({"text": ["x", "y", "z"]})
    one, two = ResultColumns(("a", "b"), "one_"), ResultColumns(("a", "b"), "two_")
    table = one.add(rows, [None, "long", "null"], [[0.5, 0.5]])
    table = two.add(table, [None, None, "null"], [[0.5, 0.5]] * 2)
    assert table.schema == with_results(rows.schema, [one, two])
    assert rows_with_errors(table, [one, two]) == 2
