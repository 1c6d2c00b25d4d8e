"""The outermost middleware: request ids, security headers, the log line and the counters.

The log holds no text and no key. A line is written when the response has been sent; with
`--logging-config.formatter json` its fields are JSON keys.
"""

import logging
import re
from time import monotonic
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.observe import metrics
from api.observe.context import RequestContext, enter_request, in_short, path_of

logger = logging.getLogger("vllm.ifedicl.access")

CLASSIFY = "/v1/classify"
# Asked every few seconds by machines, and of no interest while they are answered 200.
QUIET = ("/health", "/ready", "/metrics", "/ping")
ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LONGEST_PATH = 256
TASKS_SHOWN = 8
TRACE_HEADERS = ("traceparent", "tracestate")
RETRY_AFTER_S = "1"  # where whoever answered 429 or 503 did not say
NO_RESPONSE = 499  # nginx's, for a client that did not wait


class Observe:
    """ASGI middleware. Callers' `X-Request-Id` is kept if it is 1 to 128 plain characters."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        context = _context(Headers(scope=scope))
        enter_request(context)
        started, status = monotonic(), NO_RESPONSE

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), status, context)
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        except Exception:
            if status == NO_RESPONSE:  # Starlette answers outside of every middleware
                status = 500
            raise
        finally:
            seconds, path = monotonic() - started, path_of(scope)
            if path == CLASSIFY:
                metrics.count_request(context, status, seconds)
            if path not in QUIET or status != 200:
                _log(scope, context, status, seconds)


def _context(headers: Headers) -> RequestContext:
    traced = {name: headers[name] for name in TRACE_HEADERS if name in headers}
    sent = headers.get("x-request-id", "")
    if ACCEPTED_ID.fullmatch(sent):
        return RequestContext(id=sent, trace_headers=traced)
    return RequestContext(trace_headers=traced)


def _add_headers(headers: MutableHeaders, status: int, context: RequestContext) -> None:
    headers["X-Request-Id"] = context.id
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if status in (429, 503):
        headers.setdefault("Retry-After", RETRY_AFTER_S)


def _log(scope: Scope, context: RequestContext, status: int, seconds: float) -> None:
    fields = {
        "method": scope["method"],
        "path": quote(scope["path"], safe="/")[:LONGEST_PATH],  # nobody writes our log's lines
        "status": status,
        "duration_ms": round(seconds * 1000, 1),
        "request_id": context.id,
        "task": in_short(context.tasks, TASKS_SHOWN),
        "texts": context.texts,
        "error": context.error,
        "lost": in_short([task for task in context.lost if task], TASKS_SHOWN),
    }
    shown = {name: value for name, value in fields.items() if value not in ("", 0)}
    logger.info("%s", " ".join(f"{name}={value}" for name, value in shown.items()), extra=shown)
