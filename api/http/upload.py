"""An uploaded artifact as multipart/form-data, read within limits. Knows no tasks and no folder.

The files are kept in memory, as they are small (a few MiB for the largest models): nothing
an upload sends is on disk before it is checked, and no name it sends reaches a path.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from api.undecoded import content_type, refuse_encoded
from ifedicl_serve.contract.artifact import MAX_TASK_FILE_BYTES, TASK_FILE, VECTORS_FILE
from ifedicl_serve.contract.signing import SIGNATURE_BYTES, SIGNATURE_FILE

FRAMING_BYTES = 16 << 10  # boundaries and headers of three parts
REQUIRED = [TASK_FILE, VECTORS_FILE]
FILES = [*REQUIRED, SIGNATURE_FILE]
FORM = {
    "type": "object",
    "required": REQUIRED,
    "properties": {name: {"type": "string", "format": "binary"} for name in FILES},
}
# For OpenAPI: FastAPI, were it to know the form, would read it whole before any limit.
REQUEST_BODY = {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}
EXPECTED = (
    "send the two files of an artifact as multipart/form-data: "
    f"curl -X PUT -F {TASK_FILE}=@{TASK_FILE} -F {VECTORS_FILE}=@{VECTORS_FILE}, and -F "
    f"{SIGNATURE_FILE}=@{SIGNATURE_FILE} if it is signed"
)


@dataclass(frozen=True)
class Upload:
    """The two files of an artifact and its signature, if it has one; unchecked."""

    task_file: bytes
    vectors: bytes
    signature: bytes | None


async def read_upload(request: Request, max_vectors_bytes: int) -> Upload:
    """Read the files. Raises HTTPException 400, 413 or 415; a body too large is not read on."""
    refuse_encoded(request.headers)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(
            415, f"the body has {content_type(request.headers)}, no multipart/form-data; {EXPECTED}"
        )
    limits = {
        TASK_FILE: MAX_TASK_FILE_BYTES,
        VECTORS_FILE: max_vectors_bytes,
        SIGNATURE_FILE: SIGNATURE_BYTES,
    }
    body = _limited(request, sum(limits.values()) + FRAMING_BYTES)
    parser = MultiPartParser(request.headers, body, max_files=len(FILES), max_fields=0)
    parser.spool_max_size = sum(limits.values()) + FRAMING_BYTES  # so never to a temporary file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"{error.message} {EXPECTED}") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the connection ended before the upload did") from error
    names = sorted(name for name, _ in form.multi_items())
    if names not in (sorted(REQUIRED), sorted(FILES)):
        raise HTTPException(
            400, f"the form holds {', '.join(names) or 'no whole file'}; {EXPECTED}"
        )
    files = {name: await _content(file) for name, file in form.items()}
    for name, content in files.items():
        if len(content) > limits[name]:
            raise _too_large(f"{name} has {len(content)} bytes", limits[name])
    return Upload(files[TASK_FILE], files[VECTORS_FILE], files.get(SIGNATURE_FILE))


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body, as long as it is within the limit: what it claims to be, then what it is."""
    claimed = request.headers.get("content-length", "")
    if claimed.isdecimal() and int(claimed) > limit:
        raise _too_large(f"the body has {claimed} bytes", limit)
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > limit:
            raise _too_large("the body is larger", limit)
        yield chunk


async def _content(file: UploadFile | str) -> bytes:
    assert isinstance(file, UploadFile)  # max_fields=0: the parser refused anything else
    return await file.read()


def _too_large(seen: str, limit: int) -> HTTPException:
    return HTTPException(
        413,
        f"{seen}, an artifact of the served model has at most {limit}; is this one of another "
        "model?",
    )
