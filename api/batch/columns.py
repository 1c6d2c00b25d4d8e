"""What is added to every row: label, score, one score per label, and why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ifedicl_serve.errors import DataError


@dataclass(frozen=True)
class ResultColumns:
    """`label`, `score`, `score_<label>` of every label and `error`, each after the prefix.

    A row has either an error or all of the others.
    """

    labels: tuple[str, ...]
    prefix: str = ""

    @property
    def fields(self) -> list[pa.Field]:
        scores = [("score", pa.float64()), *((f"score_{n}", pa.float64()) for n in self.labels)]
        typed = [("label", pa.string()), *scores, ("error", pa.string())]
        return [pa.field(self.prefix + name, kind) for name, kind in typed]

    def schema(self, rows: pa.Schema) -> pa.Schema:
        """Of the rows with results."""
        return pa.schema([*rows, *self.fields], metadata=rows.metadata)

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
        return pa.table([*rows.columns, *columns], schema=self.schema(rows.schema))
