"""Clients in this process behind a grid that delivers at once; real Flower is in
`test_simulation.py` and `test_deployment.py`."""

import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from calibration.data.examples import Example
from calibration.federation.client.app import client_app
from calibration.federation.client.participant import Owner
from calibration.federation.coordinator import fleet
from calibration.federation.wire.invitation import Invitation
from calibration.settings import Settings
from calibration.task import TaskDefinition
from ifedicl_serve.contract.identity import ModelIdentity
from tests.calibration.conftest import examples, llama, llama_folder, one_thread, task

__all__ = ["examples", "llama", "llama_folder", "one_thread", "task"]

SETTINGS = Settings(
    layers=(1, 2), fit="coefficients", readout="none", rounds=3, local_steps=3, batch_size=4
)
Tamper = Callable[[str, RecordDict], RecordDict | Error | None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients of a `LoopGrid` answer at once."""
    monkeypatch.setattr(fleet, "POLL_SECONDS", 0.01)


@dataclass
class Node:
    """A client: its Flower context, and what becomes of its answers on the way."""

    context: Context
    tamper: Tamper = lambda kind, content: content

    def forget(self) -> None:
        """As after a restart."""
        self.context.state = RecordDict()


@dataclass
class LoopGrid:
    """Delivers a message by calling the client, and keeps everything that passed. What arrives has
    been bytes, as on a wire."""

    owners: dict[int, Owner]
    nodes: dict[int, Node] = field(default_factory=dict)
    sent: list[Message] = field(default_factory=list)
    received: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers = itertools.count()
        self.app = client_app(lambda context: self.owners[context.node_id])
        self.replies: dict[str, Message] = {}
        for node in self.owners:
            self.connect(node)

    def connect(self, node: int) -> Node:
        context = Context(1, node, {}, RecordDict(), {})
        self.nodes[node] = Node(context)
        return self.nodes[node]

    def forget(self) -> None:
        """Every client, as in a new run on the SuperLink, which has a new context on each."""
        for node in self.nodes.values():
            node.forget()

    def first(self, kind: str) -> Message:
        """Of all messages of a kind that were sent."""
        return next(one for one in self.sent if one.metadata.message_type == kind)

    def answer(self, message: Message) -> RecordDict:
        """What its client says to a message that was sent before, and may have been changed."""
        return self.app(message, self.nodes[message.metadata.dst_node_id].context).content

    def spoil(self, node: int, kind: str, change: Callable[[RecordDict], RecordDict]) -> None:
        """Let a client's answers of a kind arrive changed."""
        self.nodes[node].tamper = lambda seen, content: change(content) if seen == kind else content

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages) -> list[str]:
        identifiers = []
        for message in messages:
            identifier = f"message {next(self.numbers)}"
            message.metadata.__dict__["_message_id"] = identifier
            identifiers.append(identifier)
            self.sent.append(message)
            node = message.metadata.dst_node_id
            if node in self.nodes:
                self._deliver(message, self.nodes[node])
        return identifiers

    def _deliver(self, message: Message, node: Node) -> None:
        delivered = Message(on_a_wire(message.content), metadata=message.metadata)
        reply = self.app(delivered, node.context)
        reply.content = on_a_wire(reply.content)
        self.received.append(reply)
        outcome = node.tamper(message.metadata.message_type, reply.content)
        if isinstance(outcome, Error):
            self.replies[message.metadata.message_id] = Message(outcome, reply_to=message)
        elif outcome is not None:
            self.replies[message.metadata.message_id] = Message(outcome, reply_to=message)

    def pull_messages(self, identifiers) -> list[Message]:
        return [self.replies.pop(one) for one in list(identifiers) if one in self.replies]


def on_a_wire(content: RecordDict) -> RecordDict:
    """As Flower's processes hand it on."""
    return recorddict_from_proto(
        RecordDictProto.FromString(recorddict_to_proto(content).SerializeToString())
    )


@pytest.fixture
def clients(examples: list[Example], tmp_path: Path) -> list[Path]:
    """Three clients' files: five, four and three rows."""
    parts = [examples[:5], examples[5:9], examples[9:]]
    paths = [tmp_path / f"client-{number}.jsonl" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        path.write_text("".join(json.dumps(asdict(example)) + "\n" for example in part))
    return paths


@pytest.fixture
def grid(clients: list[Path], llama_folder: Path) -> LoopGrid:
    """Nodes 10, 11 and 12 are clients 0, 1 and 2; each holds out a row in five."""
    owners = [Owner(number, str(llama_folder), path) for number, path in enumerate(clients)]
    return LoopGrid({10 + number: owner for number, owner in enumerate(owners)})


@pytest.fixture
def invitation(task: TaskDefinition, llama_folder: Path) -> Invitation:
    return Invitation(
        name=task.name,
        prompt=task.prompt,
        labels=task.labels,
        model=ModelIdentity.of(str(llama_folder)),
        num_layers=3,
        hidden_size=64,
        settings=SETTINGS,
    )
