"""What is told of a calibration while it runs, and how long each stage took.

Calibration calls these methods; who shows what (a console, Flower's log) overrides them.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from calibration.settings import SiteFit
from calibration.stages.fit import OnStep
from ifedicl_serve.contract.spec import Fit


class Progress:
    """Keeps the seconds of each stage, by a clock, and shows nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._since = 0.0

    def extracting(self, client: int, clients: int) -> None:
        """A client is about to extract its vector."""
        self._enter("extract")

    def fitting(self, fit: SiteFit, client: int, round_index: int) -> OnStep:
        """A client is about to fit; the result is called after each of its steps."""
        self._enter(f"fit {fit}")
        return lambda step, loss: None

    def reading(self, fit: Fit) -> None:
        """Clients are about to read their rows."""
        self._enter("read" if fit == "none" else f"read {fit}")

    def comparing(self) -> None:
        """Readouts are about to be fitted, and rungs to be judged."""
        self._enter("compare")

    def round_done(
        self, fit: SiteFit, rounds_done: int, losses: Mapping[int, Sequence[float]]
    ) -> None:
        """The server has averaged a round; `losses` of the clients' steps, none if withheld."""

    def evaluating(self, rows: int) -> None:
        """Held-out rows are about to be classified."""
        self._enter("evaluate")

    def warn(self, warnings: Sequence[str]) -> None:
        """Signs that something is wrong."""

    def done(self) -> None:
        """The last stage has ended."""
        self._enter(None)

    def _enter(self, stage: str | None) -> None:
        now = self.clock()
        if self._stage is not None:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now
