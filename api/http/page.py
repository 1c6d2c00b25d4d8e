"""The page at `/`: static files, and the headers that let them load nothing but themselves.

Knows no tasks: the page asks `/v1/tasks` and `/v1/classify` as any other caller does.
"""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parents[1] / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-cache",  # asked for again, and answered 304, so an upgrade is noticed
}


class PageFiles(StaticFiles):
    """Static files with the page's headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


files = PageFiles(directory=STATIC)
router = APIRouter(include_in_schema=False)


@router.get("/")
async def index(request: Request) -> Response:
    """The page itself."""
    return await files.get_response("index.html", request.scope)


# Not `/static`, where vLLM's --enable-offline-docs serves its own files. And no mount: it would
# look for its files below --root-path, which a proxy may have taken off.
@router.api_route("/page/{path:path}", methods=["GET", "HEAD"])
async def file(path: str, request: Request) -> Response:
    """What the page is made of."""
    return await files.get_response(path, request.scope)
