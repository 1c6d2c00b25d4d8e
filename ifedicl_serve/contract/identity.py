"""Which base model a task was calibrated on, as digests of its config, tokenizer and weights.

A context vector means nothing to another model, and label tokens nothing to another tokenizer.
What of a checkpoint is read, and how, `ifedicl_serve.checkpoint` says.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ifedicl_serve.checkpoint.files import digest_of, read_json
from ifedicl_serve.checkpoint.tokenizer import load_tokenizer, tokenizer_digest
from ifedicl_serve.checkpoint.weights import weights_digest
from ifedicl_serve.errors import ModelError

# Keys of config.json that say how a checkpoint was saved, not what it computes.
VOLATILE_KEYS = {"transformers_version", "dtype", "torch_dtype", "_name_or_path", "use_cache"}
# Of how the digests are made. 1 was of a tokenizer's main file alone (`identity_1`).
IDENTITY_VERSION = 2


class ModelIdentity(BaseModel):
    """A base model; `name` is for people, the rest is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    name: str
    architecture: str
    config_digest: str
    tokenizer_digest: str
    weights_digest: str

    @classmethod
    def of(
        cls,
        model: str,
        weights: bool = True,
        download_dir: str | None = None,
        tokenizer: Any = None,
    ) -> "ModelIdentity":
        """Identity of a local checkpoint folder or hub model. Raises ModelError if it is
        incomplete, or if calibration and serving would load different files of it.

        A hub model's weights are looked for in `download_dir`, its config and tokenizer in Hugging
        Face's cache, as vLLM does with its flag of that name.

        `tokenizer` is the model's, if `load_tokenizer` has loaded it already.
        Without `weights` their files are not looked for and their digest is empty, which is that of
        no model."""
        config = read_json(model, "config.json")
        stable = {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
        return cls(
            version=IDENTITY_VERSION,
            name=Path(model).resolve().name if Path(model).is_dir() else model,
            architecture=architecture_of(model),
            config_digest=digest_of(stable),
            tokenizer_digest=tokenizer_digest(tokenizer or load_tokenizer(model)),
            weights_digest=weights_digest(model, download_dir) if weights else "",
        )

    def with_weights(self, digest: str) -> "ModelIdentity":
        """The same model, of these weights."""
        return self.model_copy(update={"weights_digest": digest})

    def mismatch(self, other: "ModelIdentity") -> str | None:
        """What differs from `other` in a way that matters, or None."""
        for field in (
            "version",
            "architecture",
            "config_digest",
            "tokenizer_digest",
            "weights_digest",
        ):
            mine, theirs = str(getattr(self, field)), str(getattr(other, field))
            if mine != theirs:
                return (
                    f"{field.replace('_', ' ')} {mine[:16]} of {self.name!r}, "
                    f"not {theirs[:16]} of {other.name!r}"
                )
        return None

    def refuse_other_tokenizer(self, tokenizer: Any) -> None:
        """Raise ModelError unless this, as an engine has loaded it, is the model's tokenizer."""
        seen = tokenizer_digest(tokenizer)
        if seen != self.tokenizer_digest:
            raise ModelError(
                f"the engine has loaded another tokenizer ({type(tokenizer).__name__}, digest "
                f"{seen[:16]}) than tasks of {self.name!r} are calibrated with "
                f"({self.tokenizer_digest[:16]}); serve without flags and environment variables "
                "that choose a tokenizer, and from the folder that tasks are calibrated on"
            )


def architecture_of(model: str) -> str:
    """What a checkpoint's config.json names, e.g. LlamaForCausalLM. Raises ModelError."""
    architectures = read_json(model, "config.json").get("architectures") or []
    if not architectures:
        raise ModelError(f"{model}/config.json names no architecture; save it with transformers")
    return architectures[0]
