"""A run that is saved after every stage, told of, and warned of; at its end, the artifact."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.calibrate import Calibrated, Watch
from calibration.result.outcome import Outcome
from calibration.result.signs import (
    absent_signs,
    client_signs,
    counted,
    loss_signs,
    round_signs,
    vector_signs,
)
from calibration.run.progress import Progress
from calibration.settings import Settings, SiteFit
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from calibration.state import State, StateStore
from ifedicl_serve.contract.artifact import save_artifact
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.contract.spec import TaskSpec
from ifedicl_serve.fitting.rungs import ZERO_SHOT
from ifedicl_serve.fitting.signs import benefit_signs


class Recorder(Watch):
    """Goes on from `saved`, if there is such a state. `federation` is what a federation must
    remember beside it."""

    def __init__(
        self,
        settings: Settings,
        labels: Sequence[str],
        saved: State | None,
        store: StateStore,
        progress: Progress,
        federation: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.settings, self.labels = settings, labels
        self.saved = saved
        self.store = store
        self.progress = progress
        self.federation = federation

    def began(self, state: State, vectors: Mapping[int, ClientVector]) -> State:
        """Warn of clients and of the vector."""
        vector = state.context_vector
        assert vector is not None
        mask = adapted_mask(len(vector), self.settings.layers, self.settings.sites)
        signs = client_signs(vectors) + absent_signs(counted(vectors)) + vector_signs(vector, mask)
        return self._kept(state, signs)

    def told(self, state: State, counts: Sequence[float]) -> State:
        """Warn of labels without rows, unless that was done by the vectors."""
        if state.context_vector is not None:
            return state
        return self._kept(state, absent_signs(dict(zip(self.labels, counts, strict=True))))

    def round_done(self, state: State, fit: SiteFit, updates: Mapping[int, ClientUpdate]) -> State:
        """Tell the losses, and warn of values that diverge."""
        state = replace(state, federation=self.federation())
        losses = dict(zip(state.clients, state.losses[fit][-1], strict=True))
        self.progress.round_done(fit, state.rounds_done(fit), losses)
        sent = {client: update.values for client, update in updates.items()}
        return self._kept(state, round_signs(fit, state.values[fit], sent))

    def finished(self, done: Calibrated, spec: TaskSpec, folder: Path) -> Outcome:
        """Warn of a task that is of no use, write it, and forget the state."""
        late = [
            sign
            for fit, losses in done.state.losses.items()
            for sign in loss_signs(fit, losses, done.state.clients)
        ]
        if done.measured.rows and done.rung != ZERO_SHOT:
            late += benefit_signs(done.measured.before, done.measured.after)
        self.progress.warn(late)
        done = replace(done, state=replace(done.state, federation=self.federation()))
        artifact = save_artifact(spec, done.tensors, folder)
        self.store.remove()
        return Outcome(artifact, done, done.state.warnings + late)

    def _kept(self, state: State, warnings: list[str]) -> State:
        self.progress.warn(warnings)
        state = replace(state.warned(warnings), federation=self.federation())
        self.store.save(state)
        return state
