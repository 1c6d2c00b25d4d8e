"""The coordinator's path: invite -> vectors -> FedAvg -> rounds of (fit, FedAvg) -> artifact.

The same arithmetic as `calibration.calibrate`, with the clients elsewhere: equal seeds, data and
settings give equal tensors. State is saved after every stage, so a coordinator that was killed
goes on where it was. It needs the model's config and tokenizer, not its weights.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from calibration.calibrate import Outcome, first_state, next_state
from calibration.federation.coordinator.fleet import Fleet, Terms
from calibration.federation.coordinator.ledger import Ledger
from calibration.federation.wire.messages import (
    COEFFICIENTS,
    EXTRACT,
    FIT,
    MEASURE,
    VECTOR,
    Invitation,
    Member,
    count_of,
    label_counts_of,
    losses_of,
    metrics_of,
    numbers_of,
    tensor_of,
    tensor_record,
)
from calibration.federation.wire.tensors import decode, encode, encoded_bytes
from calibration.job import Losses, calibration_spec, measurements
from calibration.progress import Progress
from calibration.result.signs import benefit_signs, loss_signs
from calibration.stages.aggregate import aggregate_vectors
from calibration.stages.evaluate import DIGITS, Metrics
from calibration.stages.extract import ClientVector
from calibration.stages.fit import ClientUpdate
from calibration.stages.robust import AGGREGATORS
from calibration.state import State, StateStore
from ifedicl_serve.contract.artifact import save_artifact
from ifedicl_serve.contract.injection import BETA, LAMBDA, adapted_mask
from ifedicl_serve.contract.spec import TaskSpec
from ifedicl_serve.errors import FederationError

logger = logging.getLogger("flwr")  # Flower shows and collects this logger's lines

LARGEST_ACTIVATION = 1e7  # some models exceed fp16's 65504; squares overflow at 1e19
LARGEST_COEFFICIENT = 100.0  # fitted ones stay within about 3
LARGEST_NORM_RATIO = 10.0  # of a client's vector to the median client's


def federate(
    invitation: Invitation,
    terms: Terms,
    out: Path,
    grid: Grid,
    store: StateStore,
    progress: Progress,
) -> Outcome:
    """Calibrate a task with the clients on `grid`, going on from a saved state if there is one,
    and save its artifact to `out`. Raises QuorumError when too few clients answer."""
    state = store.load()
    fleet = Fleet(grid, invitation, terms, Ledger(state.federation["ledger"] if state else []))
    fleet.gather()
    if state is None:
        state = extract_stage(fleet, progress)
        store.save(state)
    while state.rounds_done < invitation.settings.rounds:
        state = fit_stage(fleet, state, progress)
        store.save(state)
    outcome = finish(fleet, state, out, progress)
    store.remove()
    return outcome


def extract_stage(fleet: Fleet, progress: Progress) -> State:
    """Client vectors and their mean, as the clients will read it; coefficients at their start."""
    invitation, settings = fleet.invitation, fleet.invitation.settings
    progress.extracting(0, len(fleet.members))
    everyone = [member.client for member in fleet.members.values()]

    def read(content: RecordDict, member: Member) -> ClientVector:
        numbers = numbers_of(content)
        vector = tensor_of(
            content.array_records.get(VECTOR), invitation.wire, invitation.vector_shape
        )
        refuse_beyond(vector, LARGEST_ACTIVATION)
        label_counts = label_counts_of(numbers, invitation.task.names, member)
        return ClientVector(vector, count_of(numbers, member), label_counts)

    reminder = RecordDict({"invitation": invitation.to_record()})
    vectors = fleet.ask(EXTRACT, everyone, RecordDict(), reminder, read)
    fleet.need(len(vectors), f"answered {EXTRACT}")
    for client in outsized({client: one.vector for client, one in vectors.items()}):
        logger.error("the vector of client %d is absurdly long; left out", client)
        del vectors[client]
    fleet.need(len(vectors), "sent a usable vector")
    mean = aggregate_vectors(list(vectors.values()), AGGREGATORS[settings.aggregation])
    context_vector = _as_sent(mean, invitation)
    state = first_state(vectors, context_vector, settings, progress)
    sizes = {member.client: member.examples for member in fleet.members.values()}
    kept = {
        "clients": list(vectors),
        "sizes": [sizes[client] for client in vectors],
        "ledger": fleet.ledger.rows(),
    }
    return replace(state, federation=kept)


def fit_stage(fleet: Fleet, state: State, progress: Progress) -> State:
    """One round: every client fits from the current coefficients, the coordinator averages."""
    invitation, clients = fleet.invitation, state.federation["clients"]
    progress.fitting(0, state.rounds_done)
    untouched = ~adapted_mask(
        invitation.num_layers, invitation.settings.layers, invitation.settings.sites
    )

    def read(content: RecordDict, member: Member) -> ClientUpdate:
        numbers = numbers_of(content)
        sent = content.array_records.get(COEFFICIENTS)
        coefficients = tensor_of(sent, "fp32", invitation.coefficients_shape)
        refuse_coefficients(coefficients, untouched)
        losses = losses_of(numbers, invitation.settings.local_steps)
        return ClientUpdate(coefficients, count_of(numbers, member), losses)

    request = RecordDict(
        {
            COEFFICIENTS: tensor_record(state.current, "fp32"),
            "round": ConfigRecord({"index": state.rounds_done}),
        }
    )
    if state.rounds_done == 0:
        request[VECTOR] = tensor_record(state.context_vector, invitation.wire)
    updates = fleet.ask(FIT, clients, request, _reminder(fleet, state), read)
    fleet.need(len(updates), f"answered {FIT}")
    losses = {one: list(updates[one].losses) if one in updates else [] for one in clients}
    state.federation["ledger"] = fleet.ledger.rows()
    return next_state(state, updates, losses, invitation.settings, progress)


def finish(fleet: Fleet, state: State, out: Path, progress: Progress) -> Outcome:
    """Let the clients measure on their held-out rows, and write the artifact."""
    invitation = fleet.invitation
    before, after, rows = measure_stage(fleet, state, progress)
    late = loss_signs(state.losses, state.clients) + (benefit_signs(before, after) if rows else [])
    progress.warn(late)
    measured = measurements(before, after, rows)
    spec = federated_spec(invitation, state.federation["sizes"], measured, state.losses)
    artifact = save_artifact(spec, state.context_vector, state.current, out)
    return Outcome(artifact, state, before, after, state.warnings + late)


def federated_spec(
    invitation: Invitation, sizes: Sequence[int], measured: Metrics, losses: Losses
) -> TaskSpec:
    """`task.json` of a federation."""
    return calibration_spec(
        invitation.task,
        invitation.model,
        invitation.vector_shape,
        invitation.settings,
        client_sizes=sizes,
        vector_bytes=encoded_bytes(invitation.vector_shape, invitation.wire),
        measured=measured,
        circumstances={"wire": invitation.wire},
        losses=losses,
    )


def measure_stage(fleet: Fleet, state: State, progress: Progress) -> tuple[Metrics, Metrics, int]:
    """Zero-shot and adapted metrics over all clients' held-out rows, and their number."""
    members = [member for member in fleet.members.values() if member.held_out]
    if fleet.invitation.settings.private:
        return {}, {}, 0
    clients = {member.client for member in members} & set(state.federation["clients"])
    progress.evaluating(sum(member.held_out for member in members if member.client in clients))

    def read(content: RecordDict, member: Member) -> tuple[int, Metrics, Metrics]:
        numbers = numbers_of(content)
        return member.held_out, metrics_of(numbers, "zero_shot"), metrics_of(numbers, "adapted")

    request = RecordDict({COEFFICIENTS: tensor_record(state.current, "fp32")})
    answers = fleet.ask(MEASURE, clients, request, _reminder(fleet, state), read)
    rows = [count for count, _, _ in answers.values()]
    before = weighted([metrics for _, metrics, _ in answers.values()], rows)
    after = weighted([metrics for _, _, metrics in answers.values()], rows)
    return before, after, sum(rows)


def weighted(metrics: Sequence[Metrics], rows: Sequence[int]) -> Metrics:
    """Mean over all rows; none of none."""
    names = metrics[0] if metrics else ()
    return {name: round(fmean((m[name] for m in metrics), rows), DIGITS) for name in names}


def outsized(vectors: dict[int, Tensor]) -> list[int]:
    """Clients whose vector is far longer than the median one; two cannot outvote each other."""
    norms = {client: float(vector.norm()) for client, vector in vectors.items()}
    limit = LARGEST_NORM_RATIO * median(norms.values())
    return [client for client, norm in norms.items() if len(norms) > 2 and norm > limit]


def refuse_beyond(tensor: Tensor, largest: float) -> None:
    """Raise FederationError for a value that no honest client arrives at."""
    seen = float(tensor.abs().max())
    if seen > largest:
        raise FederationError(f"sent a value of {seen:.3g}, expected within {largest:g}")


def refuse_coefficients(coefficients: Tensor, untouched: Tensor) -> None:
    """Raise FederationError for coefficients that no fit arrives at."""
    refuse_beyond(coefficients, LARGEST_COEFFICIENT)
    identity = (coefficients[..., LAMBDA] == 0) & (coefficients[..., BETA] == 1)
    if not identity[untouched].all():
        raise FederationError("sent coefficients for sites that the task does not adapt")


def _as_sent(vector: Tensor, invitation: Invitation) -> Tensor:
    """The vector that clients will decode: the one the coefficients are fitted to."""
    return decode(encode(vector, invitation.wire), invitation.wire, invitation.vector_shape)


def _reminder(fleet: Fleet, state: State) -> RecordDict:
    """What a client must be told once, for one that was restarted since."""
    vector = tensor_record(state.context_vector, fleet.invitation.wire)
    return RecordDict({"invitation": fleet.invitation.to_record(), VECTOR: vector})
