"""Who may ask for what: API keys before every route that works, and the tasks of each key.

vLLM guards the paths below /v1 alone; here a server with keys answers nothing else either without
one, but for the paths in OPEN. Routes outside those in SCOPED know no tasks, so a key that is
limited to some may not use them.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access.keys import TaskPatterns, key_digest, tenant_of
from api.errors import error_response
from api.observe.context import current_request, path_of

# What shows no task and does no work: probes, metrics, the page and the documentation. From ""
# (--root-path alone) one is sent to the page.
OPEN = ("", "/", "/health", "/ready", "/ping", "/metrics", "/version", "/docs", "/redoc",
        "/openapi.json")  # fmt: skip
OPEN_FOLDERS = ("/page/", "/static/", "/docs/")  # the page; vLLM's --enable-offline-docs
SCOPED = ("/v1/classify", "/v1/tasks", "/v1/models", "/v1/completions", "/v1/chat/completions")
SCOPED_FOLDERS = ("/v1/tasks/",)


class Access:
    """ASGI middleware; the keys are vLLM's `api_key` and those of `--key-file`, in the app's
    arguments."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._keyring: Keyring | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] != "OPTIONS":
            refusal = self._refusal(scope)
            if refusal is not None:
                return await refusal(scope, receive, send)
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if self._keyring is None:
            args = scope["app"].state.args
            self._keyring = Keyring(args.api_key or (), args.ifedicl.keys)
        path = path_of(scope)
        if not self._keyring or _is_in(path, OPEN, OPEN_FOLDERS):
            return None
        key = _bearer(Headers(scope=scope))
        if key is None or key not in self._keyring:
            return error_response(
                HTTPStatus.UNAUTHORIZED,
                "no valid API key was sent; send one as the header 'Authorization: Bearer KEY'",
                headers={"WWW-Authenticate": "Bearer"},
            )
        context = current_request()
        context.allowed = self._keyring.tasks_of(key)
        context.tenant = "" if context.allowed is None else tenant_of(key)
        if context.allowed is None or _is_in(path, SCOPED, SCOPED_FOLDERS):
            return None
        return error_response(
            HTTPStatus.FORBIDDEN, f"this key is for its tasks alone, and {path} knows no tasks"
        )


class Keyring:
    """API keys as digests, and the tasks of those that may not use every task."""

    def __init__(self, keys: Sequence[str], tasks: Mapping[str, TaskPatterns]) -> None:
        self._tasks_of = {key_digest(key): tasks.get(key) for key in keys}

    def __bool__(self) -> bool:
        return bool(self._tasks_of)

    def __contains__(self, key: str) -> bool:
        return key_digest(key) in self._tasks_of

    def tasks_of(self, key: str) -> TaskPatterns | None:
        """None: every task."""
        return self._tasks_of[key_digest(key)]


def _bearer(headers: Headers) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" else None


def _is_in(path: str, paths: Sequence[str], folders: Sequence[str]) -> bool:
    return path in paths or path.startswith(tuple(folders))
