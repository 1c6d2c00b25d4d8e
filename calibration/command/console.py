"""What a person watching a calibration sees: a status line while a client works, a line a round."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from calibration.run.progress import Progress
from calibration.settings import SiteFit
from calibration.stages.fit import OnStep
from ifedicl_serve.contract.spec import Fit


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

    def fitting(self, fit: SiteFit, client: int, round_index: int) -> OnStep:
        super().fitting(fit, client, round_index)
        where = f"{fit}, round {round_index + 1}/{self.rounds}, client {client}"

        def on_step(step: int, loss: float) -> None:
            self._status.update(f"{where}, step {step + 1}/{self.steps}, loss {loss:.3f}")

        return on_step

    def reading(self, fit: Fit) -> None:
        super().reading(fit)
        self._say("reading rows" if fit == "none" else f"reading rows under {fit}")

    def comparing(self) -> None:
        super().comparing()
        self._say("comparing rungs")

    def round_done(
        self, fit: SiteFit, rounds_done: int, losses: Mapping[int, Sequence[float]]
    ) -> None:
        means = ", ".join(f"{sum(steps) / len(steps):.3f}" for steps in losses.values() if steps)
        self.console.print(
            f"{fit}, round {rounds_done}/{self.rounds}: mean loss {means or 'withheld for privacy'}"
        )

    def evaluating(self, rows: int) -> None:
        super().evaluating(rows)
        self._say(f"classifying {rows} rows, zero-shot and adapted")

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
