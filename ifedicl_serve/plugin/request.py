"""What a request carries through vLLM: `PoolingParams.extra_kwargs["ifedicl"]`.

The engine trusts nothing in it: `cache_salt` replaces a malformed value by `MALFORMED` where a
request enters the engine core, so that it fails alone.
"""

from dataclasses import dataclass
from typing import Any

KEY = "ifedicl"
MALFORMED = "malformed"  # a digest no artifact has: its requests are answered with NaN


@dataclass(frozen=True)
class TaskRequest:
    """Adapt with the artifact named by `digest` (None: no task), and score `label_token_ids`."""

    digest: str | None = None
    label_token_ids: tuple[int, ...] = ()

    def extra_kwargs(self) -> dict[str, Any]:
        """The value for `PoolingParams.extra_kwargs`, plain types as msgpack needs them."""
        return {KEY: {"digest": self.digest, "label_token_ids": list(self.label_token_ids)}}

    @classmethod
    def of(cls, pooling_params: Any) -> "TaskRequest":
        """Read it back from vLLM's `PoolingParams`; one without our key is an unadapted request.

        Raises ValueError if the value under our key is not what `extra_kwargs` writes.
        """
        extra = getattr(pooling_params, "extra_kwargs", None) or {}
        if KEY not in extra:
            return cls()
        value = extra[KEY]
        if not isinstance(value, dict) or not value.keys() <= {"digest", "label_token_ids"}:
            raise ValueError(f"extra_kwargs[{KEY!r}] must hold digest and label_token_ids")
        digest, ids = value.get("digest"), value.get("label_token_ids") or []
        if digest is not None and not isinstance(digest, str):
            raise ValueError(f"digest must be a string or null, got {type(digest).__name__}")
        if not isinstance(ids, list) or not all(
            type(token) is int and 0 <= token < 1 << 31 for token in ids
        ):
            raise ValueError("label_token_ids must be a list of token ids")
        return cls(digest, tuple(ids))
