"""What a request carries through vLLM under the key "ifedicl": a JSON string.

It is in `PoolingParams.extra_kwargs`, or, if a request generates, in `SamplingParams.extra_args`.
Over HTTP only our own code puts it there (`api.vllm.border`). A string, because vLLM copies these
values deeply several times a request, and because equal strings are parsed once. The engine trusts
nothing in it: `cache_salt` replaces a malformed value by `MALFORMED` where a request enters the
engine core, so that it fails alone.
"""

import json
import re
import reprlib
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

from ifedicl_serve.contract.spec import MAX_LABELS

KEY = "ifedicl"
MALFORMED = "malformed"  # a digest no artifact has: its requests are answered with NaN
DIGEST = re.compile(rf"[0-9a-f]{{64}}|{MALFORMED}")
# What a caller may have every process remember: a thousand labels' tokens fit, no more.
MAX_CHARS = 16 << 10
MAX_GENERATION_CHARS = 64
MAX_INT32 = (1 << 31) - 1


class TaskKey(NamedTuple):
    """What slots, failures and cached KV are filed under.

    The generation gives a digest that once failed another chance. No caller can do harm with it:
    under one key tokens were either always adapted, or the key has failed for good.
    """

    digest: str
    generation: str = ""


class Adaptation(NamedTuple):
    """The task (None: none) that adapts a request, and the first position that it adapts."""

    task: TaskKey | None = None
    start: int = 0


@dataclass(frozen=True)
class TaskRequest:
    """Adapt with the artifact named by `digest` (None: no task), and score `label_token_ids`.

    With `tail` only the last so many tokens of the prompt are adapted, and all that follow.
    `label_rows` is how many of the task's own rows are to be scored behind the tokens: all it has,
    or none.
    """

    digest: str | None = None
    label_token_ids: tuple[int, ...] = ()
    generation: str = ""
    tail: int | None = None
    label_rows: int = 0

    @property
    def key(self) -> TaskKey | None:
        return None if self.digest is None else TaskKey(self.digest, self.generation)

    def adaptation(self, prompt_tokens: int) -> Adaptation:
        """Of a request whose prompt has so many tokens."""
        start = 0 if self.tail is None else max(0, prompt_tokens - self.tail)
        return Adaptation(self.key, start)

    def extra_kwargs(self) -> dict[str, Any]:
        """For `PoolingParams.extra_kwargs` or `SamplingParams.extra_args`."""
        return {KEY: json.dumps(asdict(self))}

    @classmethod
    def of_request(cls, request: Any) -> "TaskRequest":
        """Read it back from a request of vLLM's, which has either kind of parameters."""
        return cls.of(request.pooling_params or request.sampling_params)

    @classmethod
    def of(cls, params: Any) -> "TaskRequest":
        """Read it back from vLLM's parameters; ones without our key are of an unadapted request.

        Raises ValueError if the value under our key is not what `extra_kwargs` writes.
        """
        extra = getattr(params, "extra_kwargs", None) or getattr(params, "extra_args", None) or {}
        if KEY not in extra:
            return cls()
        text = extra[KEY]
        if not isinstance(text, str):
            raise ValueError(f"{KEY!r} is a {type(text).__name__}, expected a JSON string")
        if len(text) > MAX_CHARS:
            raise ValueError(f"{KEY!r} has {len(text)} characters, expected at most {MAX_CHARS}")
        return _parsed(text)


FIELDS = {field.name for field in fields(TaskRequest)}


@lru_cache(maxsize=1024)
def _parsed(text: str) -> TaskRequest:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{KEY!r} is nested too deeply") from error
    if not isinstance(value, dict) or not value.keys() <= FIELDS:
        raise ValueError(f"{KEY!r} must hold {', '.join(sorted(FIELDS))}")
    digest, ids = value.get("digest"), value.get("label_token_ids") or []
    generation, tail = value.get("generation", ""), value.get("tail")
    label_rows = value.get("label_rows", 0)
    if digest is not None and not (isinstance(digest, str) and DIGEST.fullmatch(digest)):
        raise ValueError(f"digest is {reprlib.repr(digest)}, expected null or 64 hex digits")
    if not isinstance(generation, str) or len(generation) > MAX_GENERATION_CHARS:
        raise ValueError(
            f"generation is {reprlib.repr(generation)}, expected a string of at most "
            f"{MAX_GENERATION_CHARS} characters"
        )
    if not isinstance(ids, list) or not all(_is_count(token, MAX_INT32) for token in ids):
        raise ValueError("label_token_ids must be a list of token ids")
    if tail is not None and not _is_count(tail, MAX_INT32):
        raise ValueError(f"tail is {reprlib.repr(tail)}, expected null or a number of tokens")
    if not _is_count(label_rows, MAX_LABELS):
        raise ValueError(
            f"label_rows is {reprlib.repr(label_rows)}, expected a number from 0 to {MAX_LABELS}"
        )
    return TaskRequest(digest, tuple(ids), generation, tail, label_rows)


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
