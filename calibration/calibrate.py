"""The path of a calibration: client vectors -> FedAvg -> rounds of (fit, FedAvg) -> artifact.

All clients run in this process; a federation over a network calls the same stages
(`extract_vector`, `aggregate_vectors`, `fit_round`, `aggregate_updates`) from its own loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from calibration.job import Job, task_spec
from calibration.progress import Progress
from calibration.result.signs import (
    absent_signs,
    benefit_signs,
    client_signs,
    loss_signs,
    round_signs,
    vector_signs,
)
from calibration.settings import Settings
from calibration.stages.aggregate import aggregate_updates, aggregate_vectors
from calibration.stages.evaluate import Metrics, before_and_after
from calibration.stages.extract import ClientVector, extract_vector
from calibration.stages.fit import ClientUpdate, fit_round
from calibration.stages.robust import AGGREGATORS
from calibration.state import State, StateStore
from ifedicl_serve.contract.artifact import Artifact, save_artifact
from ifedicl_serve.contract.injection import adapted_mask, initial_coefficients


@dataclass(frozen=True)
class Outcome:
    """The artifact, and what only the report tells."""

    artifact: Artifact
    state: State
    before: Metrics
    after: Metrics
    warnings: list[str]


def calibrate(job: Job, folder: Path, store: StateStore, progress: Progress) -> Outcome:
    """Calibrate a task, continuing a saved state if there is one, and save its artifact."""
    state = store.load() or extract_stage(job, progress)
    store.save(state)
    while state.rounds_done < job.settings.rounds:
        state = fit_stage(job, state, progress)
        store.save(state)
    outcome = finish(job, state, folder, progress)
    store.remove()
    return outcome


def extract_stage(job: Job, progress: Progress) -> State:
    """Client vectors and their FedAvg; coefficients at their start values."""
    settings, model = job.settings, job.model
    vectors = {}
    for client, examples in enumerate(job.clients):
        progress.extracting(client, len(job.clients))
        vectors[client] = extract_vector(model, job.task, examples, settings, client)
    context_vector = aggregate_vectors(list(vectors.values()), AGGREGATORS[settings.aggregation])
    return first_state(vectors, context_vector, settings, progress)


def first_state(
    vectors: Mapping[int, ClientVector],
    context_vector: Tensor,
    settings: Settings,
    progress: Progress,
) -> State:
    """The state after stage 1, its signs told; also what a federation's coordinator begins with.
    Clients go by their numbers."""
    num_layers = len(context_vector)
    mask = adapted_mask(num_layers, settings.layers, settings.sites)
    start = initial_coefficients(num_layers, settings.layers, settings.sites)
    warnings = client_signs(vectors) + absent_signs(vectors) + vector_signs(context_vector, mask)
    progress.warn(warnings)
    return State(context_vector, start.unsqueeze(0), warnings=warnings)


def fit_stage(job: Job, state: State, progress: Progress) -> State:
    """One round: every client fits from the current coefficients, the server averages."""
    updates = {}
    for client, examples in enumerate(job.clients):
        updates[client] = fit_round(
            job.model,
            job.task,
            examples,
            state.context_vector,
            state.current,
            job.settings,
            client,
            state.rounds_done,
            progress.fitting(client, state.rounds_done),
        )
    losses = {client: list(update.losses) for client, update in updates.items()}
    return next_state(state, updates, losses, job.settings, progress)


def next_state(
    state: State,
    updates: Mapping[int, ClientUpdate],
    losses: dict[int, list[float]],
    settings: Settings,
    progress: Progress,
) -> State:
    """The state one round later, its signs told; the same in a federation's coordinator.
    `losses` has a row for every client, also for one that sent no update."""
    rule = AGGREGATORS[settings.aggregation]
    merged = aggregate_updates(list(updates.values()), rule)
    state = state.after_round(merged, list(losses.values()))
    sent = {client: update.coefficients for client, update in updates.items()}
    warnings = round_signs(state.coefficients, sent)
    progress.round_done(state.rounds_done, losses)
    progress.warn(warnings)
    return state.warned(warnings)


def finish(job: Job, state: State, folder: Path, progress: Progress) -> Outcome:
    """Measure on held-out rows, and write the artifact."""
    before: Metrics = {}
    after: Metrics = {}
    late = loss_signs(state.losses, state.clients)
    if job.held_out:
        progress.evaluating(len(job.held_out))
        before, after = before_and_after(
            job.model,
            job.task,
            job.held_out,
            job.settings,
            state.context_vector,
            state.current,
        )
        late += benefit_signs(before, after)
    progress.warn(late)
    spec = task_spec(job, before, after, state.losses)
    artifact = save_artifact(spec, state.context_vector, state.current, folder)
    return Outcome(artifact, state, before, after, state.warnings + late)
