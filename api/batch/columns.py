"""What is added to every row: label, score, one score per label, and why there is none."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ifedicl_serve.contract.spec import TaskSpec
from ifedicl_serve.errors import DataError


@dataclass(frozen=True)
class ResultColumns:
    """`label`, `score`, `score_<label>` of every label and `error`, each after the prefix.

    A row has either an error or all of the others.
    """

    labels: tuple[str, ...]
    prefix: str = ""

    @property
    def error(self) -> str:
        """The name of the column with what is wrong."""
        return f"{self.prefix}error"

    @property
    def fields(self) -> list[pa.Field]:
        scores = [("score", pa.float64()), *((f"score_{n}", pa.float64()) for n in self.labels)]
        typed = [("label", pa.string()), *scores, ("error", pa.string())]
        return [pa.field(self.prefix + name, kind) for name, kind in typed]

    def refuse_taken(self, names: Sequence[str]) -> None:
        """Raise DataError if the rows have one of the names that are added."""
        taken = [field.name for field in self.fields if field.name in set(names)]
        if taken:
            raise DataError(
                f"the input has columns {', '.join(map(repr, taken))}, which would be added; "
                "rename them, or give the added ones a prefix, e.g. --prefix predicted_"
            )

    def add(
        self,
        rows: pa.Table,
        errors: Sequence[str | None],
        probabilities: npt.NDArray[np.float64],
    ) -> pa.Table:
        """The rows with results: `probabilities` [rows without error, labels], in row order."""
        good = np.array([error is None for error in errors], dtype=bool)
        scores = np.full((len(errors), len(self.labels)), np.nan)
        scores[good] = probabilities
        best = np.argmax(scores, axis=1)
        columns = [
            pa.array(np.array(self.labels, dtype=object)[best], pa.string(), mask=~good),
            *(
                pa.array(column, mask=~good)
                for column in (scores[np.arange(len(errors)), best], *scores.T)
            ),
            pa.array(errors, pa.string()),
        ]
        return pa.table([*rows.columns, *columns], schema=with_results(rows.schema, [self]))


def with_results(rows: pa.Schema, columns: Iterable[ResultColumns]) -> pa.Schema:
    """The schema of rows with the results of each task."""
    added = [field for of_task in columns for field in of_task.fields]
    return pa.schema([*rows, *added], metadata=rows.metadata)


def rows_with_errors(table: pa.Table, columns: Iterable[ResultColumns]) -> int:
    """How many rows of a table with results have an error of any task."""
    fine = [table.column(of_task.error).is_null().to_numpy() for of_task in columns]
    return len(table) - int(np.logical_and.reduce(fine).sum())


def columns_of(specs: Sequence[TaskSpec], prefix: str) -> list[ResultColumns]:
    """Those of each task, with its name before them where there are several. Raises DataError for
    tasks whose columns would have one name."""
    several = len(specs) > 1
    columns = [
        ResultColumns(
            tuple(label.name for label in spec.labels),
            f"{prefix}{spec.name}_" if several else prefix,
        )
        for spec in specs
    ]
    adding: dict[str, str] = {}
    for spec, of_task in zip(specs, columns, strict=True):
        for field in of_task.fields:
            if field.name in adding:
                raise DataError(
                    f"tasks {adding[field.name]!r} and {spec.name!r} would both add a column "
                    f"{field.name!r}; classify by each in a run of its own"
                )
            adding[field.name] = spec.name
    return columns
