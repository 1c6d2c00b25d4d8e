"""The admin routes: upload a task, delete one, look at the tasks directory now.

They exist only on a server that was started with an admin key, and their answers are sent when
this API process serves what they say. Others of the same server follow the folder and do so
within a second, workers when a request needs it.

Who holds the key can
- replace any task, so decide what callers are answered; remove tasks;
- fill the disk with valid tasks, and keep a core busy for seconds per upload (a thousand labels
  behind a template of 20,000 characters are checked by every API process);
- classify, where --api-key is on: the key is then an API key too.
It cannot
- write outside the tasks directory, or choose a path there: the name of an upload is letters,
  digits, '.', '_' and '-', starts with a letter or digit, and is all that reaches a path; one to
  delete must be listed; what files are called in the form is ignored;
- put there anything but a `task.json` and a `vectors.safetensors` that passed every check of a
  served artifact, and 64 bytes of signature, or overwrite what is no task;
- with --trusted-keys, put there a task that none of those keys signed;
- have more read than such files (claimed and counted bytes), or leave half of it behind;
- run code: JSON and safetensors alone are parsed, nothing is unpickled, and a template is text
  with one placeholder;
- read callers' texts, or files of this machine.
A stranger is refused before the name and the body are looked at. A web page cannot make a browser
send the key: it is in no cookie. Attempts at the key are not slowed down, so make it long; who
holds it may send slowly. Without TLS the key is readable on the way, as vLLM's keys are.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from api.access.admin_key import ADMIN_KEY_VARIABLE, require_admin_key
from api.errors import TaskRoute
from api.http.cards import task_card
from api.http.dependencies import Editor
from api.http.upload import REQUEST_BODY, read_upload
from ifedicl_serve.contract.names import TaskName
from ifedicl_serve.schema import ErrorResponse, ReloadReport, TaskCard

T = TypeVar("T")

logger = logging.getLogger("vllm.ifedicl")  # vLLM formats and shows what is logged below "vllm"

# One change of the folder at a time, on no thread that classification needs.
changes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ifedicl-admin")


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of an admin route, for OpenAPI."""
    return {status: {"model": ErrorResponse} for status in (401, 403, 409, *statuses)}


router = APIRouter(route_class=TaskRoute, tags=["admin"], dependencies=[Depends(require_admin_key)])
# In the router's place without a key; without these, some would be "method not allowed".
closed_router = APIRouter(route_class=TaskRoute, include_in_schema=False)


@router.put(
    "/v1/tasks/{name}",
    responses={201: {"model": TaskCard}, **errors(400, 413, 415, 422, 507)},
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def put_task(
    name: TaskName, request: Request, editor: Editor, response: Response
) -> TaskCard:
    """Upload a task: 201 if it is new, 200 if it replaced one. It serves when this answers."""
    upload = await read_upload(request, editor.max_vectors_bytes)
    files = (upload.task_file, upload.vectors, upload.signature)
    task, replaces = await _change(editor.put, name, *files)
    logger.info("Admin: task %r %s, %s", name, "replaced" if replaces else "added", task.digest)
    response.status_code = 200 if replaces else 201
    return task_card(task)


@router.delete("/v1/tasks/{name}", status_code=204, responses=errors(404, 422))
async def delete_task(name: str, editor: Editor) -> None:
    """Delete a task, or a refused artifact by the id it is listed with. Running requests finish."""
    await _change(editor.delete, name)
    logger.info("Admin: task %r deleted", name)


@router.post("/v1/tasks/reload", responses=errors())
async def reload_tasks(editor: Editor) -> ReloadReport:
    """Look at the whole tasks directory now, as is done every few seconds, and say what changed."""
    changed = await _change(editor.refresh)
    logger.info("Admin: tasks reloaded, %d changed", len(changed))
    return ReloadReport(changed=changed)


@closed_router.api_route("/v1/tasks/{name}", methods=["PUT", "DELETE"])
@closed_router.post("/v1/tasks/reload")
async def closed() -> None:
    """What an operator who forgot the key is told."""
    raise HTTPException(
        404,
        "tasks are not changed over HTTP on this server; change its tasks directory, or start it "
        f"with an admin key ({ADMIN_KEY_VARIABLE})",
    )


async def _change(function: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(changes, function, *arguments)
