"""What a call can end with, named as in OpenAI's client.

APIError
├── APIConnectionError           no answer
│   └── APITimeoutError          none within the client's timeout
├── APIResponseError             an answer that is none of this service's
├── TaskNotMadeError             a job that failed or was cancelled
└── APIStatusError               an answer with an error status
    ├── BadRequestError          400
    ├── AuthenticationError      401
    ├── PermissionDeniedError    403
    ├── NotFoundError            404, e.g. no such task
    ├── UnprocessableEntityError 422, e.g. a text that is empty or too long
    ├── RateLimitError           429
    └── InternalServerError      5xx
        ├── OverloadedError      503: queue full, draining, or the task is unavailable
        └── DeadlineExceededError 504
"""

import httpx
from pydantic import ValidationError

from ifedicl_serve.errors import IFedICLError
from ifedicl_serve.schema import ErrorInfo, ErrorResponse
from ifedicl_serve.schema_jobs import Job

REQUEST_ID_HEADER = "x-request-id"


class APIError(IFedICLError):
    """Base of all errors of the client."""


class APIConnectionError(APIError):
    """The server could not be reached, or the connection broke before it answered."""


class APITimeoutError(APIConnectionError):
    """No answer within the client's timeout."""


class APIResponseError(APIError):
    """The answer is not what this service sends; something else may be listening there."""


class TaskNotMadeError(APIError):
    """A job ended without its task: `job` says why."""

    def __init__(self, job: Job) -> None:
        why = job.error.message if job.error else "it was cancelled"
        super().__init__(f"task {job.task!r} was not made (job {job.id}): {why}")
        self.job = job


class APIStatusError(APIError):
    """The server answered with an error: its status, and what its body says about it."""

    def __init__(self, error: ErrorInfo, request_id: str | None) -> None:
        suffix = f" (request {request_id})" if request_id else ""
        super().__init__(f"{error.code} {error.type}: {error.message}{suffix}")
        self.status = error.code
        self.type = error.type
        self.message = error.message
        self.param = error.param
        self.request_id = request_id


class BadRequestError(APIStatusError):
    """400: the body is not what HTTP or JSON allow."""


class AuthenticationError(APIStatusError):
    """401: the server wants an API key that it knows."""


class PermissionDeniedError(APIStatusError):
    """403: the API key does not open this."""


class NotFoundError(APIStatusError):
    """404: the server has no such task."""


class UnprocessableEntityError(APIStatusError):
    """422: a text or an option that cannot be served as it was sent."""


class RateLimitError(APIStatusError):
    """429: too many requests of this caller."""


class InternalServerError(APIStatusError):
    """5xx: the server failed."""


class OverloadedError(InternalServerError):
    """503: the server's queue is full, it is stopping, or it could not load the task."""


class DeadlineExceededError(InternalServerError):
    """504: the server gave the request up because it took too long."""


ERROR_OF: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    503: OverloadedError,
    504: DeadlineExceededError,
}


def status_error(response: httpx.Response) -> APIStatusError:
    """The exception for a response with an error status."""
    status = response.status_code
    kind = ERROR_OF.get(status, InternalServerError if status >= 500 else APIStatusError)
    return kind(_described(response), response.headers.get(REQUEST_ID_HEADER))


def _described(response: httpx.Response) -> ErrorInfo:
    """The error object of the body; of a proxy, or of vLLM's key check, there is none."""
    try:
        return ErrorResponse.model_validate_json(response.content).error
    except ValidationError:
        reason = response.reason_phrase or "error"
        return ErrorInfo(
            message=f"{response.request.url} answered {reason}",
            type=reason.title().replace(" ", ""),
            code=response.status_code,
        )
