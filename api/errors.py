"""The one place where errors become HTTP: OpenAI's JSON shape, with the right status."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.observe.context import current_request
from api.undecoded import refuse_no_json
from ifedicl_serve.errors import (
    DeadlineError,
    DrainingError,
    EngineDiedError,
    FolderError,
    FolderFullError,
    IFedICLError,
    InputError,
    OverloadedError,
    TaskNotFoundError,
    TaskUnavailableError,
)
from ifedicl_serve.schema import ErrorInfo, ErrorResponse

# The first that fits.
STATUS_OF: dict[type[IFedICLError], HTTPStatus] = {
    TaskNotFoundError: HTTPStatus.NOT_FOUND,
    InputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TaskUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    EngineDiedError: HTTPStatus.SERVICE_UNAVAILABLE,
    OverloadedError: HTTPStatus.SERVICE_UNAVAILABLE,
    DrainingError: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineError: HTTPStatus.GATEWAY_TIMEOUT,
    FolderFullError: HTTPStatus.INSUFFICIENT_STORAGE,
    FolderError: HTTPStatus.CONFLICT,
}
logger = logging.getLogger("vllm.ifedicl")

MAX_PROBLEMS = 5
CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody reads it


class TaskRoute(APIRoute):
    """A route whose errors have our shape and statuses, whatever the application's handlers.

    vLLM answers a request that does not validate with 400; ours is 422, and 400 only for a
    body that is no JSON, or 415 if its headers say so already.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                if self.body_field is not None:
                    refuse_no_json(request.headers)
                return await handler(request)
            except Exception as error:
                current_request().error = type(error).__name__
                return _response_to(error)

        return handle


def _response_to(error: Exception) -> Response:
    match error:
        case RequestValidationError():
            return _invalid_request(error)
        case HTTPException():  # of an admin route, or a body that FastAPI cannot decode
            status = HTTPStatus(error.status_code)
            return error_response(status, str(error.detail), headers=error.headers)
        case IFedICLError():
            return _response_to_ours(error)
        case ClientDisconnect():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
    request_id = current_request().id
    logger.error("request %s failed", request_id, exc_info=error)
    return error_response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"this is a defect of the server; its log says more about request {request_id}",
    )


async def on_error(request: Request, error: Exception) -> Response:
    """The response to an IFedICLError, as an exception handler of the application."""
    current_request().error = type(error).__name__
    return _response_to_ours(error)


def _response_to_ours(error: Exception) -> Response:
    wait = {"Retry-After": str(error.retry_after)} if isinstance(error, OverloadedError) else None
    return error_response(status_of(error), str(error), headers=wait)


def error_response(
    status: HTTPStatus,
    message: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error in OpenAI's shape."""
    info = _info(status, message, param)
    return JSONResponse(ErrorResponse(error=info).model_dump(), status.value, headers)


def error_info(error: IFedICLError) -> ErrorInfo:
    """What is said of an error that is a part of an answer."""
    return _info(status_of(error), str(error))


def _info(status: HTTPStatus, message: str, param: str | None = None) -> ErrorInfo:
    """Its type is the status in CamelCase, as in vLLM."""
    kind = status.phrase.title().replace(" ", "")
    kind = kind if kind.endswith("Error") else f"{kind}Error"
    return ErrorInfo(message=message, type=kind, param=param, code=status.value)


def status_of(error: Exception) -> HTTPStatus:
    """What an error is answered with."""
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
