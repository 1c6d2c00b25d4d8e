"""What a request carries through vLLM under the key "ifedicl": a JSON string.

It is in `PoolingParams.extra_kwargs`, or, if a request generates, in `SamplingParams.extra_args`.
Over HTTP only our own code puts it there (`api.vllm.border`). A string, because vLLM copies these
values deeply several times a request, and because equal strings are parsed once. The engine trusts
nothing in it: `patches.malformed` replaces a value by `MALFORMED` where a request enters the
engine core, so that it fails alone.
"""

import json
import re
import reprlib
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from ifedicl_serve.contract.spec import MAX_LABELS

KEY = "ifedicl"
MALFORMED = "malformed"  # a digest no artifact has: its requests are answered with NaN
DIGEST = re.compile(rf"[0-9a-f]{{64}}|{MALFORMED}")
MAX_GENERATION_CHARS = 64
MAX_INT32 = (1 << 31) - 1
# What one engine request may ask for: a hundred tasks of thirty labels, or two of a thousand with
# as many rows. The answers of a batch are padded to its longest one.
MAX_READOUTS = 128
MAX_SCORES = 4 * MAX_LABELS
MAX_HIDDEN_SIZE = 1 << 17  # as of an artifact; one readout of a request at most
# What a caller may have every process remember: all of that fits, no more.
MAX_CHARS = 12 * MAX_SCORES + 192 * (1 + MAX_READOUTS)


class TaskKey(NamedTuple):
    """What slots, failures, label rows and cached KV are filed under.

    The generation gives a digest that once failed another chance. No caller can do harm with it:
    under one key tokens were either always adapted, or the key has failed for good.
    """

    digest: str
    generation: str = ""


class Adaptation(NamedTuple):
    """The task (None: none) that adapts a request, and the first position that it adapts."""

    task: TaskKey | None = None
    start: int = 0


class AskedReadout(NamedTuple):
    """Scores wanted of a last hidden state: log-probabilities among some tokens and, behind them,
    the scores of `label_rows` rows of a task: all it has, or none. Behind those the state itself,
    in float32, where its size in the model is given as `hidden_size`.

    Whose rows they are is said here, as a task that has nothing else to do with a worker adapts
    no request.
    """

    label_token_ids: tuple[int, ...]
    label_rows: int = 0
    task: TaskKey | None = None
    hidden_size: int = 0

    @property
    def lengths(self) -> tuple[int, int, int]:
        """How many numbers there are of tokens, rows, and the state."""
        return len(self.label_token_ids), self.label_rows, self.hidden_size

    @property
    def scores(self) -> int:
        """How many scores there are."""
        return len(self.label_token_ids) + self.label_rows


@dataclass(frozen=True)
class TaskRequest:
    """Adapt by a task (None: by none), and answer with the scores of some readouts, one behind the
    other, each as if it were alone.

    With `tail` only the last so many tokens of the prompt are adapted, and all that follow.
    """

    task: TaskKey | None = None
    readouts: tuple[AskedReadout, ...] = ()
    tail: int | None = None

    def adaptation(self, prompt_tokens: int) -> Adaptation:
        """Of a request whose prompt has so many tokens."""
        start = 0 if self.tail is None else max(0, prompt_tokens - self.tail)
        return Adaptation(self.task, start)

    def extra_kwargs(self) -> dict[str, Any]:
        """For `PoolingParams.extra_kwargs` or `SamplingParams.extra_args`."""
        return {KEY: self._text}

    @cached_property
    def _text(self) -> str:
        return json.dumps({name: getattr(self, name) for name in FIELDS})

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


FIELDS = [field.name for field in fields(TaskRequest)]


@lru_cache(maxsize=1024)
def _parsed(text: str) -> TaskRequest:
    """Equal strings are one object, and so are its readouts, which `label_pooler` makes use of."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{KEY!r} is nested too deeply") from error
    if not isinstance(value, dict) or not value.keys() <= set(FIELDS):
        raise ValueError(f"{KEY!r} must hold {', '.join(FIELDS)}")
    tail, readouts = value.get("tail"), value.get("readouts", [])
    if tail is not None and not _is_count(tail, MAX_INT32):
        raise ValueError(f"tail is {reprlib.repr(tail)}, expected null or a number of tokens")
    if not isinstance(readouts, list) or len(readouts) > MAX_READOUTS:
        raise ValueError(f"readouts must be a list of at most {MAX_READOUTS}")
    asked = tuple(map(_readout, readouts))
    scores = sum(readout.scores for readout in asked)
    if scores > MAX_SCORES:
        raise ValueError(f"the readouts have {scores} scores, expected at most {MAX_SCORES}")
    if sum(readout.hidden_size > 0 for readout in asked) > 1:
        raise ValueError("several readouts ask for the hidden state, expected one at most")
    return TaskRequest(_task(value.get("task")), asked, tail)


def _readout(value: Any) -> AskedReadout:
    if not isinstance(value, list) or len(value) != len(AskedReadout._fields):
        raise ValueError(f"a readout must hold {', '.join(AskedReadout._fields)}")
    ids, label_rows, task, hidden_size = value
    if not isinstance(ids, list) or not all(_is_count(token, MAX_INT32) for token in ids):
        raise ValueError("label_token_ids must be a list of token ids")
    if not _is_count(label_rows, MAX_LABELS):
        raise ValueError(
            f"label_rows is {reprlib.repr(label_rows)}, expected a number from 0 to {MAX_LABELS}"
        )
    if not _is_count(hidden_size, MAX_HIDDEN_SIZE):
        raise ValueError(
            f"hidden_size is {reprlib.repr(hidden_size)}, expected a number from 0 to "
            f"{MAX_HIDDEN_SIZE}"
        )
    return AskedReadout(tuple(ids), label_rows, _task(task), hidden_size)


def _task(value: Any) -> TaskKey | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != len(TaskKey._fields):
        raise ValueError(f"a task must be null or hold {', '.join(TaskKey._fields)}")
    digest, generation = value
    if not (isinstance(digest, str) and DIGEST.fullmatch(digest)):
        raise ValueError(f"digest is {reprlib.repr(digest)}, expected 64 hex digits")
    if not isinstance(generation, str) or len(generation) > MAX_GENERATION_CHARS:
        raise ValueError(
            f"generation is {reprlib.repr(generation)}, expected a string of at most "
            f"{MAX_GENERATION_CHARS} characters"
        )
    return TaskKey(digest, generation)


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
