"""What a task may be called: a name is all that reaches a path."""

from typing import Annotated

from pydantic import Field

TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
