"""Bodies that nothing here decodes: 415 that names the header, before anything is read of them.

What is wrong with them is not what they hold, which is what their reader would complain about.
"""

from email.message import Message
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException


def refuse_encoded(headers: Headers) -> None:
    """Raises HTTPException for a body that is compressed."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body has Content-Encoding {encoding!r}, which this server does not decode; send "
            "it as it is, without that header",
        )


def refuse_no_json(headers: Headers) -> None:
    """Raises HTTPException for a body that is compressed, or does not say that it is JSON."""
    refuse_encoded(headers)
    message = Message()
    message["content-type"] = headers.get("content-type", "")
    kind = message.get_content_subtype()
    if message.get_content_maintype() != "application" or kind.rpartition("+")[2] != "json":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body has {content_type(headers)}, expected JSON; send the header 'Content-Type: "
            "application/json'",
        )


def content_type(headers: Headers) -> str:
    """The header, as an error shows it."""
    sent = headers.get("content-type")
    return "no Content-Type" if sent is None else f"Content-Type {sent!r}"
