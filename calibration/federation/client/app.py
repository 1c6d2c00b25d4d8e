"""The Flower ClientApp: messages in, a `Participant`'s answers out.

What a client was told once (the invitation, the global vector) it keeps in Flower's context
for the run, so that a round carries coefficients alone. One that has lost it says `rejoin`.
"""

import logging
from collections.abc import Callable
from functools import lru_cache

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from calibration.federation.client.answers import Answers
from calibration.federation.client.participant import Owner, Participant
from calibration.federation.wire.messages import (
    COEFFICIENTS,
    REFUSED,
    REJOIN,
    VECTOR,
    Invitation,
    Numbers,
    not_ok,
    ok,
    tensor_of,
    tensor_record,
)
from ifedicl_serve.errors import FederationError

logger = logging.getLogger("flwr")  # Flower shows and collects this logger's lines

Step = Callable[[Participant, RecordDict, RecordDict], RecordDict]


class Forgotten(Exception):
    """This client was restarted since it was told what it needs to answer."""


def client_app(owner_of: Callable[[Context], Owner]) -> ClientApp:
    """The app of a client whose owner is found in its Flower context."""
    app = ClientApp()

    def answering(step: Step) -> Callable[[Message, Context], Message]:
        def answer(message: Message, context: Context) -> Message:
            content = _answer(step, owner_of, message.content, context)
            return Message(content, reply_to=message)

        return answer

    app.query("join")(answering(join))
    app.train("extract")(answering(extract))
    app.train("fit")(answering(fit))
    app.evaluate("measure")(answering(measure))
    return app


def join(participant: Participant, _request: RecordDict, _kept: RecordDict) -> RecordDict:
    """Introduce the client."""
    return ok(participant.introduce().model_dump())


def extract(participant: Participant, _request: RecordDict, _kept: RecordDict) -> RecordDict:
    """The client's context vector."""

    def answer() -> RecordDict:
        result = participant.extract()
        label_counts = list(result.label_counts.values())
        vector = tensor_record(result.vector, participant.invitation.wire)
        return ok({"count": result.count, "label_counts": label_counts}, vector=vector)

    return _once("extract", participant, answer)


def fit(participant: Participant, request: RecordDict, kept: RecordDict) -> RecordDict:
    """The client's coefficients after a round."""
    round_index = int(request.config_records["round"]["index"])  # type: ignore[arg-type]
    if round_index not in range(participant.invitation.settings.rounds):
        raise FederationError(f"was asked for round {round_index}, which is none of the task's")
    tensors = _tensors(participant, request, kept)

    def answer() -> RecordDict:
        update = participant.fit(*tensors, round_index)
        numbers: Numbers = {"count": update.count, "losses": list(update.losses)}
        return ok(numbers, coefficients=tensor_record(update.coefficients, "fp32"))

    return _once(f"fit.{round_index}", participant, answer)


def measure(participant: Participant, request: RecordDict, kept: RecordDict) -> RecordDict:
    """The client's metrics on its held-out rows."""
    return ok(participant.measure(*_tensors(participant, request, kept)))


def _answer(
    step: Step, owner_of: Callable[[Context], Owner], request: RecordDict, context: Context
) -> RecordDict:
    """Run a step. No message of another library's error leaves: it could quote the data."""
    try:
        _keep(request, context.state)
        participant = _participant(owner_of(context), _told(context.state, "invitation"))
        return step(participant, request, context.state)
    except Forgotten:
        return not_ok(REJOIN, "was restarted")
    except FederationError as error:
        logger.error("%s: %s", error, error.__cause__ or "see the coordinator")
        return not_ok(REFUSED, str(error))
    except Exception:
        logger.exception("the coordinator's request failed")
        return not_ok(REFUSED, "failed; its own log says why")


def _keep(request: RecordDict, kept: RecordDict) -> None:
    """Remember what is told once. A second, different invitation is refused: its rounds would be
    computed on top of those that the accountant of differential privacy counted."""
    for name in ("invitation", VECTOR):
        if name in request:
            if kept.get(name, request[name]) != request[name]:
                raise FederationError(f"was sent another {name} than before in the same run")
            kept[name] = request[name]


def _once(step: str, participant: Participant, answer: Callable[[], RecordDict]) -> RecordDict:
    """Under differential privacy the first answer is given again, whatever is asked."""
    folder, invitation = participant.owner.answers, participant.invitation
    if folder is None or not invitation.settings.private:
        return answer()
    return Answers(folder, invitation, participant.train).once(step, answer)


def _told(state: RecordDict, name: str) -> str:
    if name not in state.config_records:
        raise Forgotten
    return str(state.config_records[name]["json"])


@lru_cache(maxsize=4)
def _participant(owner: Owner, invitation: str) -> Participant:
    return Participant(owner, Invitation.parse(invitation))


def _tensors(
    participant: Participant, request: RecordDict, kept: RecordDict
) -> tuple[Tensor, Tensor]:
    """The global context vector and the round's coefficients."""
    if VECTOR not in kept.array_records:
        raise Forgotten
    invitation = participant.invitation
    vector = tensor_of(kept.array_records[VECTOR], invitation.wire, invitation.vector_shape)
    sent = request.array_records.get(COEFFICIENTS)
    return vector, tensor_of(sent, "fp32", invitation.coefficients_shape)


def owner_from_node(context: Context) -> Owner:
    """The owner as `flower-supernode --node-config` names it: nothing the coordinator can set."""
    try:
        return TypeAdapter(Owner).validate_python(dict(context.node_config))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = ".".join(map(str, problem["loc"]))
        raise FederationError(f"was started with a wrong {name}: {problem['msg']}") from error


app = client_app(owner_from_node)
