"""A client's rows: those it fits to, and those by which rungs are judged."""

from collections.abc import Sequence
from typing import NamedTuple

from calibration.data.examples import Example


class Rows(NamedTuple):
    """`held_out` are never fitted to by gradients; readouts are, fold by fold."""

    train: Sequence[Example]
    held_out: Sequence[Example] = ()

    @property
    def everything(self) -> list[Example]:
        return [*self.train, *self.held_out]
