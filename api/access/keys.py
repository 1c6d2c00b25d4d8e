"""API keys with their tasks: `--key-file`, a JSON object of key -> list of task names or globs.

    {"3f6c...": ["banking"], "91aa...": ["support-*"], "77d0...": ["*"]}

A key listed here may classify and generate with the tasks it names, and sees no others. Keys of
vLLM's --api-key may use every task and every route.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from ifedicl_serve.bearer import SENDABLE, why_unsendable
from ifedicl_serve.errors import IFedICLError

KEY_FILE_VARIABLE = "IFEDICL_KEY_FILE"
API_KEY_VARIABLE = "VLLM_API_KEY"

TaskPatterns = tuple[str, ...]
_KeyFile = TypeAdapter(
    dict[
        Annotated[str, Field(pattern=SENDABLE)],
        Annotated[TaskPatterns, Field(min_length=1)],
    ]
)


def key_digest(key: str) -> bytes:
    """What is kept and compared instead of a key: it is in no traceback and no dump of the state,
    and the time a comparison takes says nothing about the key."""
    return hashlib.sha256(key.encode()).digest()


def tenant_of(key: str) -> str:
    """A name for whoever has this key, the same in every process and after every start. Made of the
    digest, so that whoever sees it has nothing to compare a key with."""
    return hashlib.sha256(b"tenant" + key_digest(key)).hexdigest()


def configured_keys(flag: Path | None) -> Mapping[str, TaskPatterns]:
    """The keys of the flag's file, else of the environment's; none if there is no file.

    Raises IFedICLError without showing any of what the file holds.
    """
    named = os.environ.get(KEY_FILE_VARIABLE)
    path = flag or (Path(named) if named else None)
    return {} if path is None else _read(path)


def vllm_keys(flag: Sequence[str] | None) -> list[str]:
    """Those of vLLM's --api-key, else of its variable, as vLLM reads them.

    Raises IFedICLError for one that no request could send.
    """
    named = os.environ.get(API_KEY_VARIABLE)
    keys = list(flag) if flag else [named] if named else []
    for key in keys:
        if problem := why_unsendable(key, "--api-key" if flag else API_KEY_VARIABLE):
            raise IFedICLError(problem)
    return keys


def _read(path: Path) -> Mapping[str, TaskPatterns]:
    try:
        keys = _KeyFile.validate_json(path.read_bytes())
    except OSError as error:
        raise IFedICLError(f"--key-file {path} cannot be read: {error.strerror}") from error
    except ValidationError:
        # Not chained: the error would show keys.
        raise IFedICLError(
            f"--key-file {path} is no JSON object of key -> list of task names or globs, "
            'for example {"KEY": ["banking", "support-*"]}; keys are printable ASCII without spaces'
        ) from None
    if not keys:
        raise IFedICLError(f"--key-file {path} holds no key; leave the flag out, or add one")
    return keys


def allows(patterns: TaskPatterns, task: str) -> bool:
    """Whether one of them is this task's name, or a glob that fits it."""
    return any(fnmatchcase(task, pattern) for pattern in patterns)
