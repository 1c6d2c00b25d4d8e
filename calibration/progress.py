"""What a person watching a calibration sees, and how long each stage took.

Calibration calls these methods and knows nothing of consoles; `Progress` itself is silent.
"""

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from calibration.fit import OnStep


class Progress:
    """Keeps the time of each stage and shows nothing."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._since = 0.0

    def extracting(self, client: int, clients: int) -> None:
        """A client is about to extract its vector."""
        self._enter("extract")

    def fitting(self, client: int, round_index: int) -> OnStep:
        """A client is about to fit; the result is called after each of its steps."""
        self._enter("fit")
        return lambda step, loss: None

    def round_done(self, rounds_done: int, losses: Mapping[int, Sequence[float]]) -> None:
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
        now = time.monotonic()
        if self._stage is not None:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now


class ConsoleProgress(Progress):
    """Progress with rich: a status line while a client works, a line per round."""

    def __init__(self, console: Console, rounds: int, steps: int) -> None:
        super().__init__()
        self.console = console
        self.rounds = rounds
        self.steps = steps
        self._status = console.status("")

    def extracting(self, client: int, clients: int) -> None:
        super().extracting(client, clients)
        self._say(f"extracting the context vector of client {client + 1} of {clients}")

    def fitting(self, client: int, round_index: int) -> OnStep:
        super().fitting(client, round_index)
        where = f"round {round_index + 1}/{self.rounds}, client {client}"

        def on_step(step: int, loss: float) -> None:
            self._status.update(f"{where}, step {step + 1}/{self.steps}, loss {loss:.3f}")

        return on_step

    def round_done(self, rounds_done: int, losses: Mapping[int, Sequence[float]]) -> None:
        means = ", ".join(f"{sum(steps) / len(steps):.3f}" for steps in losses.values() if steps)
        self.console.print(
            f"round {rounds_done}/{self.rounds}: mean loss {means or 'withheld for privacy'}"
        )

    def evaluating(self, rows: int) -> None:
        super().evaluating(rows)
        self._say(f"classifying {rows} held-out rows, zero-shot and adapted")

    def warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self.console.print(f"[yellow]warning:[/] {escape(warning)}")

    def done(self) -> None:
        super().done()
        self._status.stop()

    def _say(self, line: str) -> None:
        self.console.print(line)
        self._status.update(line)
        self._status.start()
