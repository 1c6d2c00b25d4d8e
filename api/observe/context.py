"""The request being answered: its id, its key's tasks, and what the log and metrics say of it.

Set by the outermost middleware; a context variable, because vLLM's own serving objects pass no
request on to the places that need it.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import uuid4

from starlette.routing import get_route_path
from starlette.types import Scope

from ifedicl_serve.plugin.request import TaskRequest


@dataclass
class RequestContext:
    """Filled in as the request is understood; holds no text of the caller's."""

    id: str = field(default_factory=lambda: uuid4().hex)
    trace_headers: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] | None = None  # names or globs of tasks; None: every task
    may_make: tuple[str, ...] = ()  # likewise; its key's, which the admin key needs none of
    asked: TaskRequest | None = None  # of the engine, by a request that generates under a task
    task: str = ""  # the name of a task that exists
    texts: int = 0
    error: str = ""  # the kind of error it is answered with

    def about(self, task: str, texts: int) -> None:
        """It asks for so many texts to be classified by a task."""
        self.task, self.texts = task, texts


_current: ContextVar[RequestContext] = ContextVar("ifedicl_request")


def current_request() -> RequestContext:
    """That of the running request; outside of any, one that nobody reads."""
    return _current.get(None) or RequestContext()


def enter_request(context: RequestContext) -> None:
    """Make it the current one for this asyncio task and those it starts."""
    _current.set(context)


def path_of(scope: Scope) -> str:
    """The path below --root-path, percent-decoded, as it is routed: what a proxy did not take off
    is taken off here."""
    return get_route_path(scope)
