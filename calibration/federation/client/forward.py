"""The app that Flower runs at a client, in a process of its own for every message: it hands the
message to the owner's process (`resident`), and loads neither PyTorch nor a model."""

from multiprocessing.connection import Client

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

ADDRESS = "address"  # in Flower's node config


class Forwarding(ClientApp):
    """Answers whatever it is asked with what the owner's process says."""

    def __call__(self, message: Message, context: Context) -> Message:
        with Client(str(context.node_config[ADDRESS]), "AF_UNIX") as connection:
            connection.send_bytes(message_to_proto(message).SerializeToString())
            reply = message_from_proto(MessageProto.FromString(connection.recv_bytes()))
        return Message(reply.content, reply_to=message)


app = Forwarding()
