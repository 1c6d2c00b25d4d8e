"""The request being answered: its id, its key's tasks, and what the log and metrics say of it.

Set by the outermost middleware; a context variable, because vLLM's own serving objects pass no
request on to the places that need it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
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
    tenant: str = ""  # whose key it is, if that is for some tasks alone
    asked: TaskRequest | None = None  # of the engine, by a request that generates under a task
    tasks: tuple[str, ...] = ()  # the names of tasks that exist
    texts: int = 0
    error: str = ""  # the kind of error it is answered with
    # Of each task that answers nothing, though others do ("": of names that are no task's), the
    # status and the kind of its error.
    lost: dict[str, tuple[int, str]] = field(default_factory=dict)

    def about(self, tasks: Sequence[str], texts: int) -> None:
        """It asks for so many texts to be classified by tasks."""
        self.tasks, self.texts = tuple(tasks), texts

    def cache_salt(self, own: str | None = None) -> str | None:
        """For vLLM's prefix cache: the caller's `own`, apart from those of other tenants. What
        tasks share of a text would else tell one which texts another has sent."""
        if not self.tenant:
            return own
        return hashlib.sha256(json.dumps([self.tenant, own]).encode()).hexdigest()

    @property
    def task(self) -> str:
        """The first task, and how many more there are."""
        return in_short(self.tasks, 1)


_current: ContextVar[RequestContext] = ContextVar("ifedicl_request")


def current_request() -> RequestContext:
    """That of the running request; outside of any, one that nobody reads."""
    return _current.get(None) or RequestContext()


def enter_request(context: RequestContext) -> None:
    """Make it the current one for this asyncio task and those it starts."""
    _current.set(context)


def name_request(tasks: Sequence[str]) -> None:
    """What is asked of the engine from here on, in this asyncio task, is for these."""
    enter_request(replace(current_request(), tasks=tuple(tasks)))


def in_short(tasks: Sequence[str], most: int) -> str:
    """Names as one word: `a,b+14`. Neither sign is in a task's name."""
    more = len(tasks) - most
    return ",".join(tasks[:most]) + (f"+{more}" if more > 0 else "")


def path_of(scope: Scope) -> str:
    """The path below --root-path, percent-decoded, as it is routed: what a proxy did not take off
    is taken off here."""
    return get_route_path(scope)
