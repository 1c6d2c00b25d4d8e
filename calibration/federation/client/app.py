"""The Flower ClientApp: messages in, a `Participant`'s answers out.

What a client was told once it remembers (`memory`), so that a message carries what is new alone.
One that has lost it says `rejoin`.
"""

import logging
from collections.abc import Callable
from functools import lru_cache

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from calibration.federation.client.answers import Answers
from calibration.federation.client.memory import Forgotten, Memory
from calibration.federation.client.participant import Owner, Participant
from calibration.federation.client.question import Question
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import (
    INVITATION,
    REFUSED,
    REJOIN,
    Numbers,
    member_record,
    not_ok,
    ok,
    tensor_record,
)
from calibration.federation.wire.sums import (
    curvatures_record,
    gradient_record,
    judgement_record,
    losses_record,
    noisy_record,
    stacks_of,
    statistics_record,
)
from ifedicl_serve.errors import FederationError
from ifedicl_serve.fitting.judge import Judgement, judge_rows
from ifedicl_serve.fitting.reader import Read

logger = logging.getLogger("flwr")  # Flower shows and collects this logger's lines

Step = Callable[[Question], RecordDict]


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
    app.evaluate("held_out")(answering(held_out))
    app.query("statistics")(answering(statistics))
    app.query("losses")(answering(losses))
    app.query("curvatures")(answering(curvatures))
    app.query("noisy_statistics")(answering(noisy_statistics))
    app.query("gradient")(answering(gradient))
    app.evaluate("judge")(answering(judge))
    return app


def join(asked: Question) -> RecordDict:
    """Introduce the client."""
    return member_record(asked.participant.introduce())


def extract(asked: Question) -> RecordDict:
    """The client's context vector."""

    def answer() -> RecordDict:
        result = asked.participant.extract()
        label_counts = list(result.label_counts.values())
        numbers: Numbers = {"count": result.count, "label_counts": label_counts}
        return ok(numbers, tensor_record(result.vector, asked.invitation.wire))

    return _once("extract", asked.participant, answer)


def fit(asked: Question) -> RecordDict:
    """The client's values at the sites after a round."""
    kind, round_index = asked.site_fit(), asked.round()
    vector, values = asked.vector(), asked.values(kind)

    def answer() -> RecordDict:
        update = asked.participant.fit(kind, vector, values, round_index)
        numbers: Numbers = {"count": update.count, "losses": list(update.losses)}
        return ok(numbers, tensor_record(update.values, asked.invitation.values_wire(kind)))

    return _once(f"fit.{round_index}", asked.participant, answer)


def held_out(asked: Question) -> RecordDict:
    """The client's held-out loss under values at the sites."""
    loss, rows = asked.participant.held_out_loss(asked.injection(asked.site_fit()))
    return ok({"loss": loss, "rows": rows})


def statistics(asked: Question) -> RecordDict:
    """Sums over the client's rows."""
    by_fit = (asked.read(fit).reader.statistics() for fit in asked.fits())
    return ok({}, statistics_record([one for by_fold in by_fit for one in by_fold]))


def losses(asked: Question) -> RecordDict:
    """Losses of readouts, summed over the client's rows."""
    wanted = asked.sums()
    return ok({}, losses_record(asked.readers(wanted).losses(wanted)))


def curvatures(asked: Question) -> RecordDict:
    """The same with derivatives."""
    wanted = asked.sums()
    return ok({}, curvatures_record(asked.readers(wanted).curvatures(wanted)))


def noisy_statistics(asked: Question) -> RecordDict:
    """Sums over a private client's rows."""

    def answer() -> RecordDict:
        return ok({}, noisy_record(reader.statistics()))

    reader = asked.private_reader()
    return _once("statistics", asked.participant, answer)


def gradient(asked: Question) -> RecordDict:
    """A step's gradient of a readout, of a private client's rows."""
    step, theta, reader = asked.step(), asked.theta(), asked.taught_private_reader()

    def answer() -> RecordDict:
        return ok({}, gradient_record(reader.gradient(step, theta)))

    return _once(f"gradient.{step}", asked.participant, answer)


def judge(asked: Question) -> RecordDict:
    """The rungs on the client's held-out rows."""
    judgement = _judged(asked)
    return ok({"rows": judgement.rows}, judgement_record(judgement))


def _judged(asked: Question) -> Judgement:
    rungs = asked.rungs()
    stacks = stacks_of(asked.arrays, rungs, asked.labels)
    read_out = {rung.fit for rung in stacks}
    reads: dict[str, Read] = {
        fit: asked.taught(fit) if fit in read_out else asked.read(fit)
        for fit in {rung.fit for rung in rungs}
    }
    return judge_rows(reads, rungs, stacks)


def _answer(
    step: Step, owner_of: Callable[[Context], Owner], request: RecordDict, context: Context
) -> RecordDict:
    """Run a step. No message of another library's error leaves: it could quote the data."""
    try:
        memory = Memory(context.state)
        memory.keep(request)
        participant = _participant(owner_of(context), str(memory.told(INVITATION)["json"]))
        return step(Question(participant, request, memory))
    except Forgotten:
        return not_ok(REJOIN, "was restarted")
    except FederationError as error:
        logger.error("%s: %s", error, error.__cause__ or "see the coordinator")
        return not_ok(REFUSED, str(error))
    except Exception:
        logger.exception("the coordinator's request failed")
        return not_ok(REFUSED, "failed; its own log says why")


def _once(step: str, participant: Participant, answer: Callable[[], RecordDict]) -> RecordDict:
    """Under differential privacy the first answer is given again, whatever is asked."""
    folder, invitation = participant.owner.answers, participant.invitation
    if folder is None or not invitation.settings.private:
        return answer()
    return Answers(folder, invitation, participant.rows.train).once(step, answer)


@lru_cache(maxsize=4)
def _participant(owner: Owner, invitation: str) -> Participant:
    return Participant(owner, Invitation.parse(invitation))
