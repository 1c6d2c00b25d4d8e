"""Who may make tasks from examples, and see the jobs that do: the admin key, and keys of
`--key-file` under their patterns."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from api.access.admin_key import ADMIN_KEY_VARIABLE, AdminKey
from api.access.keys import TaskPatterns, allows
from api.observe.context import current_request


class Maker:
    """A key that may make tasks of some names (None: of any)."""

    def __init__(self, patterns: TaskPatterns | None) -> None:
        self.patterns = patterns

    def may_make(self, name: str) -> bool:
        """Whether a task of that name, and so see jobs that do."""
        return self.patterns is None or allows(self.patterns, name)

    def refuse(self, name: str) -> None:
        """Raises HTTPException 403 for a name that it may not make."""
        if not self.may_make(name):
            assert self.patterns is not None
            raise HTTPException(
                403,
                f"this key may make no task {name!r}; it may make: {', '.join(self.patterns)}",
            )


def require_maker(
    request: Request,
    sent: Annotated[
        HTTPAuthorizationCredentials | None,
        Security(
            HTTPBearer(
                auto_error=False,
                description="The server's --admin-key, or a key that may make tasks.",
                scheme_name="MakerKey",
            )
        ),
    ],
) -> Maker:
    """A dependency: 404 on a server where nobody may, 401 without a key, 403 with another one."""
    admin: AdminKey | None = request.app.state.ifedicl_admin_key
    makers = any(key.make for key in request.app.state.args.ifedicl.keys.values())
    if admin is None and not makers:
        raise HTTPException(
            404,
            "tasks are not made over HTTP on this server; start it with an admin key "
            f'({ADMIN_KEY_VARIABLE}), or with a --key-file whose keys may "make" tasks',
        )
    if sent is None:
        raise HTTPException(
            401,
            "no key was sent; send one that may make tasks as the header 'Authorization: Bearer "
            "KEY'",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if admin is not None and admin.is_sent(sent.credentials):
        return Maker(None)
    patterns = current_request().may_make
    if not patterns:
        raise HTTPException(403, "this key may not make tasks; send one that may")
    return Maker(patterns)


MakerDep = Annotated[Maker, Depends(require_maker)]
