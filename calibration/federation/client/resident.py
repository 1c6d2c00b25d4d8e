"""A data owner's process, which loads its model once and answers one message after another.

What a client was told in a run it remembers here, not in Flower's context: that would travel with
every message. After a restart it says that it must be told again.
"""

import logging
from collections import OrderedDict
from multiprocessing.connection import Connection, Listener

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

KEPT_RUNS = 4
logger = logging.getLogger("flwr")  # Flower shows this logger's lines


class Resident:
    """An app, and what it remembers of the last runs."""

    def __init__(self, app: ClientApp) -> None:
        self.app = app
        self.contexts: OrderedDict[tuple[int, int], Context] = OrderedDict()

    def serve(self, listener: Listener) -> None:
        """Answer until the listener is closed; bytes are Flower's own messages."""
        while True:
            try:
                connection = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._answer(connection)
                except Exception:  # Flower tells the coordinator that there is no answer
                    logger.exception("a message could not be answered")

    def _answer(self, connection: Connection) -> None:
        message = message_from_proto(MessageProto.FromString(connection.recv_bytes()))
        metadata = message.metadata
        context = self._context(metadata.run_id, metadata.dst_node_id)
        reply = self.app(message, context)
        connection.send_bytes(message_to_proto(reply).SerializeToString())

    def _context(self, run: int, node: int) -> Context:
        context = self.contexts.pop((run, node), None)
        self.contexts[run, node] = context or Context(run, node, {}, RecordDict(), {})
        while len(self.contexts) > KEPT_RUNS:
            self.contexts.popitem(last=False)
        return self.contexts[run, node]
