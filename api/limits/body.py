"""What a request's body may cost: so many bytes, within so many seconds.

ASGI middleware. An admin upload has limits of its own (`api.http.upload`), and only the key's
holder gets that far.
"""

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from api.options import ServeOptions


class LimitBody:
    """413 for a body that claims to be, or is, too large; 408 for one that does not come."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        options: ServeOptions = scope["app"].state.args.ifedicl
        claimed = Headers(scope=scope).get("content-length", "")
        if claimed.isdecimal() and int(claimed) > options.max_request_bytes:
            response = error_response(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(claimed, options)
            )
            return await response(scope, receive, send)
        await self.app(scope, _limited(receive, options), send)


def _limited(receive: Receive, options: ServeOptions) -> Receive:
    """`receive`, until the body is whole: then clients may stay as long as they like."""
    deadline = asyncio.get_running_loop().time() + options.request_timeout
    seen, whole = 0, False

    async def receive_limited() -> Message:
        nonlocal seen, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body did not come within {options.request_timeout:g} seconds",
            ) from None
        seen += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if seen > options.max_request_bytes:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large("more", options))
        return message

    return receive_limited


def _too_large(seen: str, options: ServeOptions) -> str:
    return (
        f"the body has {seen} bytes, expected at most {options.max_request_bytes}; send fewer or "
        "shorter texts at once"
    )
