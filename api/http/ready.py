"""Whether this API process should get requests.

`GET /health` (vLLM's) is for liveness: restart what fails it. `GET /ready` is for routing: a
server that drains is healthy and not ready. An engine that died fails both, and vLLM's watchdog
then ends the process.
"""

from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

router = APIRouter(tags=["health"])


class Readiness(BaseModel):
    """`status`: ready, draining, or engine dead."""

    status: str


@router.get("/ready", responses={503: {"model": Readiness}})
async def ready(request: Request) -> JSONResponse:
    """Whether a load balancer should send requests here: 200, or 503 with the reason."""
    status = "ready"
    if request.app.state.ifedicl_admission.draining:
        status = "draining"
    elif request.app.state.engine_client.errored:
        status = "engine dead"
    code = HTTPStatus.OK if status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(Readiness(status=status).model_dump(), status_code=code)
