"""The coordinator's path: gather the clients, calibrate with them, write the artifact.

State is saved after every stage, so a coordinator that was killed goes on where it was. It needs
the model's config and tokenizer, not its weights.
"""

from collections.abc import Sequence
from pathlib import Path

from flwr.serverapp import Grid

from calibration.calibrate import Calibrated, calibrate
from calibration.federation.coordinator.clients import RemoteClients
from calibration.federation.coordinator.fleet import Fleet, Terms
from calibration.federation.coordinator.ledger import Ledger
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.tensors import encoded_bytes
from calibration.result.outcome import Outcome
from calibration.result.record import calibration_spec
from calibration.run.progress import Progress
from calibration.run.recorder import Recorder
from calibration.stages.start import EMPTY, Shelf
from calibration.state import StateStore
from ifedicl_serve.contract.spec import TaskSpec


def federate(
    invitation: Invitation,
    terms: Terms,
    out: Path,
    grid: Grid,
    store: StateStore,
    progress: Progress,
    shelf: Shelf = EMPTY,
) -> Outcome:
    """Calibrate a task with the clients on `grid`, going on from a saved state if there is one,
    and save its artifact to `out`. Raises QuorumError when too few clients answer."""
    saved = store.load()
    kept = saved.federation if saved else {}
    fleet = Fleet(grid, invitation, terms, Ledger(kept.get("ledger", [])))
    fleet.weights = kept.get("weights", fleet.weights)
    fleet.gather()
    clients = RemoteClients(fleet, kept, progress)
    names = invitation.task.names
    recorder = Recorder(invitation.settings, names, saved, store, progress, clients.memory)
    done = calibrate(clients, invitation.settings, recorder, shelf.on(fleet.weights))
    spec = federated_spec(invitation, clients.sizes, done, fleet.weights)
    return recorder.finished(done, spec, out)


def federated_spec(
    invitation: Invitation,
    sizes: Sequence[int] = (),
    done: Calibrated | None = None,
    weights: str = "",
) -> TaskSpec:
    """`task.json` of a federation on a model of these `weights`; before it has begun, to see
    whether it can be written."""
    return calibration_spec(
        invitation.task,
        invitation.model.with_weights(weights),
        invitation.vector_shape,
        invitation.settings,
        client_sizes=sizes,
        vector_bytes=encoded_bytes(invitation.vector_shape, invitation.wire),
        circumstances={"wire": invitation.wire},
        done=done,
    )
