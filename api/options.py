"""What `ifedicl serve` adds to vLLM's options for the API processes, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from api.access.keys import KeyTasks


@dataclass(frozen=True)
class ServeOptions:
    """Bounds of one API process, and who may ask for which task. Sent to each with vLLM's own
    arguments, as `args.ifedicl`."""

    # Engine requests of classifications at once: 2,048 texts of 32 label nodes.
    max_queued_requests: int = 1 << 16
    # Seconds a client has to send a request's body, and then the server to answer.
    request_timeout: float = 60.0
    # 2,048 texts of 8,000 bytes.
    max_request_bytes: int = 16 << 20
    # The tasks of keys that may not use every task, or make some. Not shown, as vLLM logs its
    # arguments.
    keys: Mapping[str, KeyTasks] = field(default_factory=dict, repr=False)

    def seconds(self, wanted: float | None) -> float:
        """How long a request that asks for `wanted` seconds may take to be answered."""
        return min(wanted or self.request_timeout, self.request_timeout)
