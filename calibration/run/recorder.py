"""A run that is saved after every stage, told of, and warned of; at its end, the artifact."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.calibrate import Watch
from calibration.result.outcome import Outcome
from calibration.result.signs import (
    absent_signs,
    benefit_signs,
    client_signs,
    loss_signs,
    round_signs,
    vector_signs,
)
from calibration.run.progress import Progress
from calibration.settings import Settings
from calibration.stages.evaluate import Measured
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from calibration.state import State, StateStore
from ifedicl_serve.contract.artifact import save_artifact
from ifedicl_serve.contract.injection import adapted_mask
from ifedicl_serve.contract.spec import TaskSpec


class Recorder(Watch):
    """Goes on from `saved`, if there is such a state. `federation` is what a federation must
    remember beside it."""

    def __init__(
        self,
        settings: Settings,
        saved: State | None,
        store: StateStore,
        progress: Progress,
        federation: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.settings = settings
        self.saved = saved
        self.store = store
        self.progress = progress
        self.federation = federation

    def began(self, state: State, vectors: Mapping[int, ClientVector]) -> State:
        """Warn of clients and of the vector."""
        vector = state.context_vector
        mask = adapted_mask(len(vector), self.settings.layers, self.settings.sites)
        signs = client_signs(vectors) + absent_signs(vectors) + vector_signs(vector, mask)
        return self._kept(state, signs)

    def round_done(self, state: State, updates: Mapping[int, ClientUpdate]) -> State:
        """Tell the losses, and warn of coefficients that diverge."""
        state = replace(state, federation=self.federation())
        self.progress.round_done(
            state.rounds_done, dict(zip(state.clients, state.losses[-1], strict=True))
        )
        sent = {client: update.coefficients for client, update in updates.items()}
        return self._kept(state, round_signs(state.coefficients, sent))

    def finished(self, state: State, measured: Measured, spec: TaskSpec, folder: Path) -> Outcome:
        """Warn of a task that is of no use, write it, and forget the state."""
        late = loss_signs(state.losses, state.clients)
        if measured.rows:
            late += benefit_signs(measured.before, measured.after)
        self.progress.warn(late)
        artifact = save_artifact(spec, state.tensors, folder)
        self.store.remove()
        warnings = state.warnings + late
        return Outcome(artifact, state, measured.before, measured.after, warnings)

    def _kept(self, state: State, warnings: list[str]) -> State:
        self.progress.warn(warnings)
        state = replace(state.warned(warnings), federation=self.federation())
        self.store.save(state)
        return state
