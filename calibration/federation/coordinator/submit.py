"""Before a federation runs: what the clients will be asked, and handing it to a SuperLink."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import AutoConfig

from calibration.federation.coordinator.app import FederationJob
from calibration.federation.coordinator.federate import federated_spec
from calibration.federation.scripts import SCRIPTS
from calibration.federation.wire.invitation import Invitation
from calibration.settings import Settings
from calibration.task import TaskDefinition
from ifedicl_serve.contract.identity import ModelIdentity
from ifedicl_serve.contract.problem import first_problem
from ifedicl_serve.errors import FederationError, ModelError

APP = Path(__file__).parents[1] / "app"
JOB_FILE = "federation.json"


def prepare_invitation(
    model: str,
    tokenizer: Any,
    task: TaskDefinition,
    wire: str,
    settings_for: Callable[[int], Settings],
) -> Invitation:
    """An invitation that has passed every check an artifact must pass; `settings_for` is told how
    many layers the model has.

    Reads the model's config. Which weights it and the tokenizer belong to the clients say, unless
    the model is a folder that has them.
    """
    weights = any(Path(model).glob("*.safetensors"))
    identity = ModelIdentity.of(model, weights, tokenizer=tokenizer)
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read model {model!r}: {error}") from error
    task.trie(tokenizer)
    try:
        invitation = Invitation(
            name=task.name,
            prompt=task.prompt,
            labels=task.labels,
            model=identity,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            settings=settings_for(config.num_hidden_layers),
            wire=wire,  # type: ignore[arg-type]
        )
        federated_spec(invitation)
    except ValidationError as error:
        raise first_problem(error) from error
    task.refuse_empty_tail(tokenizer, invitation.settings.extent)
    return invitation


def submit(job: FederationJob, superlink: str) -> None:
    """Run the job as a Flower run on a SuperLink and show its log. Raises FederationError.

    `superlink` is the name of a connection in Flower's config.toml. The ServerApp removes the
    job's file when it has written the artifact.
    """
    path = job.state / JOB_FILE
    job.write(path)
    command = [str(SCRIPTS / "flwr"), "run", str(APP), superlink, "--stream", "--run-config"]
    status = subprocess.run([*command, f"job={json.dumps(str(path))}"]).returncode
    if status != 0 or path.exists():
        raise FederationError(
            "the run ended without an artifact, its log says why; run the same command again to "
            "go on where it stopped"
        )
