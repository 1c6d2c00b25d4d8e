"""The coordinator's hands: which clients there are, and asking all of them one thing.

A client that dies, is too slow, refuses or sends something unusable loses its own
contribution and is named in the log; fewer answers than the quorum raise QuorumError. Knows
messages and nothing of what is computed from them.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from calibration.federation.coordinator.ledger import Ledger
from calibration.federation.wire.invitation import Invitation
from calibration.federation.wire.messages import (
    CURVATURES,
    GRADIENT,
    INVITATION,
    JOIN,
    LOSSES,
    OK,
    REJOIN,
    Member,
    member_of,
    status_of,
)
from ifedicl_serve.errors import FederationError, QuorumError

logger = logging.getLogger("flwr")  # Flower shows and collects this logger's lines

POLL_SECONDS = 0.5
FIRST_POLL_SECONDS = 0.02  # sums over rows come at once
UNDELIVERED = (
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
)
MANY = (LOSSES, CURVATURES, GRADIENT)  # not worth a line each
UNKNOWN = -1  # a node that has not introduced itself
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Terms:
    """When to begin and when to go on: wait up to `wait` seconds for `clients` clients; every
    stage takes at most `timeout` seconds and needs answers of `quorum` clients."""

    clients: int
    quorum: int
    wait: float = 600.0
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("wait", "timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise FederationError(
                    f"{name} is {getattr(self, name)} seconds, expected above 0 and finite"
                )
        if not 1 <= self.quorum <= self.clients:
            raise FederationError(
                f"quorum is {self.quorum}, expected between 1 and the {self.clients} clients "
                "to wait for"
            )


class Fleet:
    """The clients of one run. `members` are those that accepted, by node; they run one model, and
    `weights` is the digest of its weights: the invitation's, or (empty before) that of most."""

    def __init__(self, grid: Grid, invitation: Invitation, terms: Terms, ledger: Ledger) -> None:
        self.grid, self.invitation, self.terms, self.ledger = grid, invitation, terms, ledger
        self.weights = invitation.model.weights_digest
        self.members: dict[int, Member] = {}
        self.invited: dict[str, int] = {}  # nodes that have not answered yet, by message
        self.refused: set[int] = set()

    def gather(self) -> None:
        """Wait for clients and invite them. Raises QuorumError."""
        deadline = time.monotonic() + self.terms.wait
        logger.info("waiting for %d clients", self.terms.clients)
        while len(self.members) < self.terms.clients and time.monotonic() < deadline:
            self.invite()
            time.sleep(POLL_SECONDS)
        self._agree_on_weights()
        self.need(len(self.members), "accepted the invitation")

    def invite(self) -> None:
        """Invite nodes that are new and admit those that have answered; waits for nobody.

        Called before every stage, so a client that was restarted finds its way back.
        """
        online = set(self.grid.get_node_ids())
        new = online - self.members.keys() - self.refused - set(self.invited.values())
        content = RecordDict({INVITATION: self.invitation.to_record()})
        self.invited |= self._push({node: content for node in sorted(new)}, JOIN)
        for node, reply in self._pull(self.invited, JOIN):
            if _undelivered(reply):
                continue  # it is away; once back it is invited again
            try:
                self._admit(node, member_of(_accepted(reply)), online)
            except FederationError as error:
                self.refused.add(node)
                logger.error("a client (node %d) %s; it is left out", node, error)

    def ask(
        self,
        kind: str,
        clients: Iterable[int],
        request: RecordDict,
        reminder: RecordDict,
        read: Callable[[RecordDict, Member], Answer],
    ) -> dict[int, Answer]:
        """Answers by client number, in its order; how many must answer is the caller's to say.

        `request` goes to every client of `clients` that is there; one that was restarted is
        asked again with `reminder` added. `read` raises FederationError for an answer it
        cannot use.
        """
        self.invite()
        wanted = set(clients)
        nodes = [node for node, member in self.members.items() if member.client in wanted]
        answers: dict[int, Answer] = {}
        forgot = self._round({node: request for node in nodes}, kind, read, answers)
        full = RecordDict({**request, **reminder})
        for node in self._round({node: full for node in forgot}, kind, read, answers):
            logger.error("%s: client %d was restarted again; left out", kind, self._client(node))
        return dict(sorted(answers.items()))

    def need(self, count: int, did: str) -> None:
        """Raise QuorumError unless `count` clients are enough."""
        if count < self.terms.quorum:
            raise QuorumError(
                f"{count} clients {did}, {self.terms.quorum} are needed; see the log for why "
                "the others are missing, then run the same command again to go on"
            )

    def _round(
        self,
        requests: dict[int, RecordDict],
        kind: str,
        read: Callable[[RecordDict, Member], Answer],
        answers: dict[int, Answer],
    ) -> list[int]:
        """Fill `answers`; return the nodes that must be told everything again."""
        forgot = []
        for node, reply in self._exchange(requests, kind):
            member = self.members[node]
            try:
                content = _content(reply)
                if status_of(content)[0] == REJOIN:
                    forgot.append(node)
                    continue
                answers[member.client] = read(_accepted(reply), member)
                level = logging.DEBUG if kind in MANY else logging.INFO
                logger.log(level, "%s: client %d answered", kind, member.client)
            except FederationError as error:
                logger.error("%s: client %d %s; left out", kind, member.client, error)
        return forgot

    def _exchange(
        self, requests: dict[int, RecordDict], kind: str
    ) -> Iterable[tuple[int, Message]]:
        """Send each node its request; yield replies as they come, until the timeout.

        A node that goes offline is not waited for.
        """
        waiting = self._push(requests, kind)
        deadline, pause = time.monotonic() + self.terms.timeout, FIRST_POLL_SECONDS
        while waiting and time.monotonic() < deadline:
            yield from self._pull(waiting, kind)
            online = set(self.grid.get_node_ids())
            for message in [one for one, node in waiting.items() if node not in online]:
                logger.error("%s: client %d went away", kind, self._client(waiting.pop(message)))
            if waiting:
                time.sleep(pause)
                pause = min(2 * pause, POLL_SECONDS)
        for node in waiting.values():
            logger.error("%s: client %d did not answer in time", kind, self._client(node))

    def _push(self, requests: dict[int, RecordDict], kind: str) -> dict[str, int]:
        """Send; the nodes by message."""
        ttl = self.terms.wait if kind == JOIN else self.terms.timeout
        messages = [Message(content, node, kind, ttl=ttl) for node, content in requests.items()]
        for node, content in requests.items():
            self.ledger.weigh(self._client(node), kind, "down", content)
        pushed = zip(self.grid.push_messages(messages), requests, strict=True)
        return {message: node for message, node in pushed if message}

    def _pull(self, waiting: dict[str, int], kind: str) -> Iterable[tuple[int, Message]]:
        """Replies that have come to messages of `waiting`, which are taken out of it."""
        if not waiting:
            return
        for reply in self.grid.pull_messages(list(waiting)):
            node = waiting.pop(reply.metadata.reply_to_message_id)
            if reply.has_content():
                self.ledger.weigh(self._client(node), kind, "up", reply.content)
            yield node, reply

    def _agree_on_weights(self) -> None:
        """Nothing of clients of different models can be averaged: those who run others than most
        are left out."""
        if self.weights or not self.members:
            return
        members = sorted(self.members.items(), key=lambda item: item[1].client)
        self.weights = Counter(member.weights for _, member in members).most_common(1)[0][0]
        for node, member in members:
            if member.weights != self.weights:
                del self.members[node]
                self.refused.add(node)
                logger.error("client %d %s; it is left out", member.client, self._others(member))

    def _others(self, member: Member) -> str:
        return (
            f"runs other weights (digest {member.weights[:16]}) than most ({self.weights[:16]}); "
            "start it with their checkpoint"
        )

    def _admit(self, node: int, member: Member, online: set[int]) -> None:
        if self.weights and member.weights != self.weights:
            raise FederationError(self._others(member))
        taken = {other.client: at for at, other in self.members.items()}
        before = taken.get(member.client)
        if before is not None and before in online:
            raise FederationError(f"calls itself client {member.client}, which another one is")
        if before is not None:
            del self.members[before]
        self.members[node] = member
        logger.info("client %d joined with %d examples", member.client, member.examples)

    def _client(self, node: int) -> int:
        return self.members[node].client if node in self.members else UNKNOWN


def _undelivered(reply: Message) -> bool:
    return reply.has_error() and reply.error.code in UNDELIVERED


def _content(reply: Message) -> RecordDict:
    if not reply.has_content():
        raise FederationError(f"did not answer: {reply.error.reason}")
    return reply.content


def _accepted(reply: Message) -> RecordDict:
    content = _content(reply)
    status, reason = status_of(content)
    if status != OK:
        raise FederationError(reason)
    return content
