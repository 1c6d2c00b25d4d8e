"""A client of a running server: httpx and pydantic, no torch and no vllm.

    with Client("http://127.0.0.1:8000") as client:
        for result in client.classify("banking", ["I forgot my PIN"]):
            print(result.label, result.score)

A list of tasks in place of "banking" gives a result per text and task.
`ifedicl_serve.client.sklearn` has the same as a scikit-learn classifier.
"""

from ifedicl_serve.client.client import AsyncClient, Client
from ifedicl_serve.client.errors import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    DeadlineExceededError,
    InternalServerError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)
from ifedicl_serve.schema import (
    Classification,
    LabelScore,
    RefusedTask,
    TaskCard,
    TaskClassification,
    TaskError,
    TaskSummary,
)

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequestError",
    "Classification",
    "Client",
    "DeadlineExceededError",
    "InternalServerError",
    "LabelScore",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "RateLimitError",
    "RefusedTask",
    "TaskCard",
    "TaskClassification",
    "TaskError",
    "TaskSummary",
    "UnprocessableEntityError",
]
