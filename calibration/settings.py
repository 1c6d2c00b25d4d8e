"""Every knob of a calibration in one place: meaning, default and the reason for it.

Free of torch, so that the command line can show the defaults at once.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

from calibration.ladder import FITS, READOUTS, FitChoice, ReadoutChoice, allowed
from ifedicl_serve.errors import DataError

if TYPE_CHECKING:
    from ifedicl_serve.contract.injection import Site
    from ifedicl_serve.contract.spec import Extent

MAX_BATCH_TOKENS = 4096
DTYPES = ("auto", "fp32", "bf16")
CHECKPOINTING = ("auto", "on", "off")
Loss = Literal["restricted", "vocabulary"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
SiteFit = Literal["coefficients", "channels"]
SITE_FITS: tuple[SiteFit, ...] = get_args(SiteFit)
Aggregation = Literal["fedavg", "median", "trimmed_mean", "krum", "multi_krum"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
EXTENT_CHOICES: tuple[str, ...] = ("all", "tail")
KNOWN: dict[str, tuple[str, ...]] = {
    "fit": FITS,
    "readout": READOUTS,
    "extent": EXTENT_CHOICES,
    "loss": LOSSES,
    "aggregation": AGGREGATIONS,
}
EXTRACTION = -1  # in a round's place, for what is drawn before the first


@dataclass(frozen=True)
class Machine:
    """How a model is run where it is run: what fits and how fast, not what is fitted. In a
    federation every client has its own. Raises DataError.

    - `dtype`: `auto` is float32 on a CPU, the checkpoint's own on a GPU, and bf16 there for
      float16, in which small gradients become 0.
    - `device_map`: how accelerate spreads a model over all GPUs; `none` keeps it on one device.
    - `max_batch_tokens`: padded tokens of a forward and backward pass; a larger batch is run in
      pieces. 4,096 hold 8 texts of 512 tokens, and an 8B model in float32 beside them in 80 GB.
    - `checkpointing`: layers keep only their inputs for the backward pass and run again in it, half
      as much work again for equal bits. `auto` does so where it would not fit else.
    """

    dtype: str = "auto"
    device: str = "auto"
    device_map: str = "none"
    max_batch_tokens: int = MAX_BATCH_TOKENS
    checkpointing: str = "auto"

    def __post_init__(self) -> None:
        for name, known in (("dtype", DTYPES), ("checkpointing", CHECKPOINTING)):
            _refuse_unknown(name, getattr(self, name), known)
        if self.max_batch_tokens < 1:
            raise DataError(f"max batch tokens is {self.max_batch_tokens}, expected at least 1")
        if self.device_map != "none" and self.device != "auto":
            raise DataError(
                f"device {self.device} and device map {self.device_map} contradict each other; "
                "give one of them"
            )


@dataclass(frozen=True)
class Settings:
    """How to extract and fit. Checked where it is born; raises DataError.

    Defaults by measurement on banking (8 labels, 320 rows, models of 7M parameters). Held-out
    accuracy 70 % zero-shot, 74 % with the mean label logit removed, 79 % with `restricted`,
    70 % with `vocabulary`. Learning rates 0.03, 0.05 and 0.1 end alike, as do 5 rounds of 60
    steps and one of 300; at 0.01, 300 steps are too few.

    With privacy, gradients are noisy, and larger batches and higher rates pay. The clipping
    norms are public constants near the medians measured on subj, emotion and ag_news (distance
    1.5 to 1.7, gradient 0.2 to 3). Of 5 clients with 64 rows of emotion, 5 rounds of 8 steps at
    rate 0.1, no privacy with batches of 4: 53 % (log-loss 1.41); epsilon 8 with batches of 16
    and gradients clipped at 1: 55 to 56 % (1.49 to 1.52), at 3: 55 % (1.47); epsilon 1: 53 %
    (1.55); epsilon 8 at rate 0.05: 53 % (1.54).
    """

    layers: tuple[int, ...]
    fit: FitChoice = "auto"  # auto: of all rungs the one that held-out rows speak for
    readout: ReadoutChoice = "auto"
    least_held_out: int = 32  # rows; auto tries nothing that gradients fit on the word of fewer
    sites: tuple[Site, ...] = ("attn", "mlp")
    extent: Extent = "all"  # of a prompt: all its tokens, or the tail behind the text alone
    loss: Loss = "restricted"
    rounds: int = 5
    local_steps: int = 60
    learning_rate: float = 0.05
    channel_learning_rate: float = 0.03
    weight_decay: float = 1e-3  # I2CL
    noise: float = 1e-3  # I2CL: Gaussian, times each token's norm, at every site while fitting
    batch_size: int = 8
    demonstrations: int = 0  # per client; 0 means all
    aggregation: Aggregation = "fedavg"  # the others outvote a poisoned client
    seed: int = 0
    epsilon: float = 0.0  # differential privacy of each client's examples; 0: none
    delta: float = 1e-5  # the probability with which that may fail
    vector_clip: float = 1.5  # of an example's distance from the reference, all sites together
    gradient_clip: float = 1.0  # of an example's gradient

    def __post_init__(self) -> None:
        if not self.layers or not self.sites:
            raise DataError("no layer or no site is selected, so nothing would be adapted")
        for name, known in KNOWN.items():
            _refuse_unknown(name, getattr(self, name), known)
        allowed(self)
        for name in ("rounds", "local_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.demonstrations < 0:
            raise DataError(
                f"demonstrations is {self.demonstrations}, expected 1 or more, or 0: all"
            )
        if self.epsilon != 0 and not 0.01 <= self.epsilon <= 100:
            raise DataError(
                f"epsilon is {self.epsilon}, expected 0.01 to 100 (1 to 8 are usual), or 0 for "
                "no privacy"
            )
        if not 0 < self.delta <= 1e-3:
            raise DataError(
                f"delta is {self.delta}, expected above 0 and far below one over a client's number "
                "of examples, such as 1e-5"
            )
        for name in ("learning_rate", "channel_learning_rate", "vector_clip", "gradient_clip"):
            if not 0 < getattr(self, name) < math.inf:
                shown = name.replace("_", " ")
                raise DataError(f"{shown} is {getattr(self, name)}, expected above 0 and finite")

    @property
    def private(self) -> bool:
        """Whether clients clip and add noise."""
        return self.epsilon > 0

    def peak_learning_rate(self, fit: SiteFit) -> float:
        """Of what is fitted at the sites."""
        return self.learning_rate if fit == "coefficients" else self.channel_learning_rate

    def seed_of(self, client: int, round_index: int) -> int:
        """A seed of its own for every client and round (`EXTRACTION`: before the first), the same
        on every machine."""
        digest = hashlib.sha256(f"{self.seed}/{client}/{round_index}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1  # torch seeds are signed

    def record(self) -> dict[str, int | float | str]:
        """For the artifact and the report: plain values only."""
        values = asdict(self)
        values["layers"] = ",".join(map(str, self.layers))
        values["sites"] = ",".join(self.sites)
        return values


def _refuse_unknown(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise DataError(f"{name} {value!r} is unknown (known: {', '.join(known)})")
