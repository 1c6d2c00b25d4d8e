"""The one place where errors become HTTP: OpenAI's JSON shape, with the right status."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from api.schema import ErrorInfo, ErrorResponse
from ifedicl_serve.errors import (
    FolderError,
    FolderFullError,
    IFedICLError,
    InputError,
    TaskNotFoundError,
    TaskUnavailableError,
)

# The first that fits.
STATUS_OF: dict[type[IFedICLError], HTTPStatus] = {
    TaskNotFoundError: HTTPStatus.NOT_FOUND,
    InputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TaskUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    FolderFullError: HTTPStatus.INSUFFICIENT_STORAGE,
    FolderError: HTTPStatus.CONFLICT,
}
MAX_PROBLEMS = 5


class TaskRoute(APIRoute):
    """A route whose errors have our shape and statuses, whatever the application's handlers.

    vLLM answers a request that does not validate with 400; ours is 422, and 400 only for a
    body that is no JSON.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                return _invalid_request(error)
            except HTTPException as error:  # of an admin route, or a body FastAPI cannot decode
                response = error_response(HTTPStatus(error.status_code), str(error.detail))
                response.headers.update(error.headers or {})
                return response
            except IFedICLError as error:
                return await on_error(request, error)

        return handle


async def on_error(request: Request, error: Exception) -> Response:
    """The response to an IFedICLError."""
    return error_response(_status_of(error), str(error))


def error_response(status: HTTPStatus, message: str, param: str | None = None) -> JSONResponse:
    """An error in OpenAI's shape; its type is the status in CamelCase, as in vLLM."""
    kind = status.phrase.title().replace(" ", "")
    kind = kind if kind.endswith("Error") else f"{kind}Error"
    info = ErrorInfo(message=message, type=kind, param=param, code=status.value)
    return JSONResponse(ErrorResponse(error=info).model_dump(), status_code=status.value)


def _status_of(error: Exception) -> HTTPStatus:
    for kind, status in STATUS_OF.items():
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _invalid_request(error: RequestValidationError) -> Response:
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        return error_response(HTTPStatus.BAD_REQUEST, "the request body is not valid JSON")
    fields = [".".join(map(str, problem["loc"][1:])) or "body" for problem in problems]
    messages = [
        f"{field}: {problem['msg']}"
        for field, problem in list(zip(fields, problems, strict=True))[:MAX_PROBLEMS]
    ]
    return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(messages), fields[0])
