"""The admin key: where it comes from, and whether a request carries it. It is never logged.

An admin request sends it as `Authorization: Bearer KEY`, the header of vLLM's --api-key. Where
that is on too, vLLM's middleware guards /v1 before any route of ours runs, and a request has one
such header: so the admin key joins vLLM's keys (`with_admin_key`), and one credential opens both.
An API key never opens an admin route.
"""

import os
import secrets
from collections.abc import Sequence
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from api.access.keys import key_digest
from ifedicl_serve.bearer import why_unsendable
from ifedicl_serve.errors import IFedICLError

ADMIN_KEY_VARIABLE = "IFEDICL_ADMIN_KEY"


class AdminKey:
    """Holds a digest: the key itself is in no traceback and no dump of the state."""

    def __init__(self, key: str) -> None:
        self._digest = key_digest(key)

    @classmethod
    def configured(cls) -> "AdminKey | None":
        """That of the environment, or None: nobody may change tasks over HTTP."""
        key = os.environ.get(ADMIN_KEY_VARIABLE)
        return cls(key) if key else None

    def is_sent(self, key: str) -> bool:
        """Whether this is the key, in a time that says nothing about it."""
        return secrets.compare_digest(self._digest, key_digest(key))


def configure(flag: str | None) -> None:
    """Set the environment's key to that of the flag, for every API process; check either.

    Raises IFedICLError for a key that no request could send.
    """
    key = os.environ.get(ADMIN_KEY_VARIABLE) or None if flag is None else flag
    if key is None:
        return
    if problem := why_unsendable(key, ADMIN_KEY_VARIABLE if flag is None else "--admin-key"):
        raise IFedICLError(problem)
    os.environ[ADMIN_KEY_VARIABLE] = key


def with_admin_key(api_keys: Sequence[str]) -> list[str]:
    """vLLM's API keys, and the admin key if there are any: without, /v1 is open as it is.

    Raises IFedICLError if the admin key is one of them.
    """
    admin_key = os.environ.get(ADMIN_KEY_VARIABLE)
    if not api_keys or not admin_key:
        return list(api_keys)
    if admin_key in api_keys:
        raise IFedICLError(
            "the admin key is also an API key, so everybody who classifies could change tasks; "
            "choose another for one of them"
        )
    return [*api_keys, admin_key]


def require_admin_key(
    request: Request,
    sent: Annotated[
        HTTPAuthorizationCredentials | None,
        Security(HTTPBearer(auto_error=False, description="The server's --admin-key.")),
    ],
) -> None:
    """A dependency: 401 without a key, 403 with another one."""
    if sent is None:
        raise HTTPException(
            401,
            "no admin key was sent; send it as the header 'Authorization: Bearer KEY'",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if not request.app.state.ifedicl_admin_key.is_sent(sent.credentials):
        raise HTTPException(403, "this key may not change tasks; send the server's admin key")
