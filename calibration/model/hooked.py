"""A Hugging Face decoder whose two injection sites per layer can be read and written.

This file knows modules and hooks; it refuses to know tasks, labels and files. Sequences are
padded on the right and run without an attention mask: attention is causal, so no token sees
the padding behind it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from calibration.model.out_of_memory import within_memory
from calibration.settings import MAX_BATCH_TOKENS
from ifedicl_serve.contract.architectures import ADAPTED_ARCHITECTURES
from ifedicl_serve.contract.injection import SITES, Injection, Site, inject
from ifedicl_serve.contract.spec import Extent
from ifedicl_serve.errors import DataError, ModelError

SITE_MODULES: dict[Site, str] = {"attn": "self_attn", "mlp": "mlp"}

Edit = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of `scale` times each token's norm, drawn site after site as a pass reaches
    them.

    Equal generators give equal noise to equal passes, wherever layers lie and whether they are
    checkpointed or not. A batch that is run in pieces draws other noise of the same size than it
    would at once, so then gradients are equal but for what is drawn.
    """

    scale: float
    generator: torch.Generator

    def __call__(self, h: Tensor) -> Tensor:
        device = self.generator.device
        noise = torch.randn(h.shape, generator=self.generator, device=device).to(h.device)
        norm = h.detach().float().norm(dim=-1, keepdim=True)
        return (h.float() + self.scale * norm * noise).to(h.dtype)


@dataclass(frozen=True)
class Beginning:
    """Tokens that sequences begin with, and what attention keeps of them."""

    tokens: tuple[int, ...] = ()
    read: Any = None  # transformers' cache, of one sequence

    def __len__(self) -> int:
        return len(self.tokens)

    def repeated(self, sequences: int) -> Any:
        """A cache for so many sequences, which a pass adds to; None of no tokens."""
        if not self.tokens:
            return None
        repeated = deepcopy(self.read)
        repeated.batch_repeat_interleave(sequences)
        return repeated


NOTHING = Beginning()


class HookedModel:
    """A frozen causal language model and its tokenizer, with its decoder layers found.

    Its layers may lie on several devices. Passes have at most `max_batch_tokens` padded tokens, or
    one sequence; those with a backward pass checkpoint their layers if `checkpointing`.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        checkpointing: bool = False,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.layers = decoder_layers(network)
        self.hidden_size: int = network.config.hidden_size
        self.max_tokens = longest_prompt(network.config)
        self.max_batch_tokens, self.checkpointing = max_batch_tokens, checkpointing
        # [batch, longest, 1]: which tokens of the forward pass that is running are in the tail
        self.in_tail = torch.empty(0, dtype=torch.bool)

    @property
    def device(self) -> torch.device:
        """That of the embedding, where passes begin."""
        return self.network.device

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def hidden(
        self,
        sequences: Sequence[Sequence[int]],
        starts: Sequence[int] | None = None,
        beginning: Beginning = NOTHING,
    ) -> Tensor:
        """Final hidden states [batch, longest, hidden] of token sequences, behind a beginning.

        `starts` are the positions where their tails begin; without, none has one.
        """
        longest = max(map(len, sequences))
        if len(beginning) + longest > self.max_tokens:
            raise DataError(
                f"a prompt has {len(beginning) + longest} tokens, the model reads at most "
                f"{self.max_tokens}; shorten the text or use fewer demonstrations"
            )
        padded = [list(ids) + [0] * (longest - len(ids)) for ids in sequences]
        ids = torch.tensor(padded, device=self.device)
        tails = torch.tensor(starts or [longest] * len(sequences), device=self.device)
        self.in_tail = (torch.arange(longest, device=self.device) >= tails[:, None])[..., None]
        with self.within_memory(sequences):
            past = beginning.repeated(len(sequences))
            return self.network.model(
                input_ids=ids, past_key_values=past, use_cache=past is not None
            ).last_hidden_state

    def begin(self, tokens: Sequence[int]) -> Beginning:
        """Read what sequences begin with, under the hooks that are open. Differentiates nothing."""
        ids = torch.tensor([tokens], device=self.device)
        self.in_tail = torch.zeros(1, len(tokens), 1, dtype=torch.bool, device=self.device)
        with torch.inference_mode(), self.within_memory([tokens]):
            read = self.network.model(input_ids=ids, use_cache=True).past_key_values
        return Beginning(tuple(tokens), read)

    def within_memory(self, sequences: Sequence[Sequence[int]]) -> AbstractContextManager[None]:
        """Around a pass over sequences: raises ModelError for a GPU's lack of memory."""
        longest = max(map(len, sequences))
        return within_memory(len(sequences), longest, self.max_batch_tokens, self.checkpointing)

    def logits(self, hidden: Tensor, tokens: Sequence[int] | None = None) -> Tensor:
        """Float32 logits [..., tokens] of the given vocabulary rows, or of all of them, on the
        device of `hidden`."""
        head = self.network.lm_head
        device, hidden = hidden.device, hidden.to(head.weight.device)
        if tokens is None:
            return self._scaled(head(hidden).float()).to(device)
        rows = list(tokens)
        bias = None if head.bias is None else head.bias[rows].float()
        logits = nn.functional.linear(hidden.float(), head.weight[rows].float(), bias)
        return self._scaled(logits).to(device)

    def _scaled(self, logits: Tensor) -> Tensor:
        """What some networks do behind lm_head: Gemma caps, Granite divides, Cohere multiplies."""
        config = self.network.config
        cap = getattr(config, "final_logit_softcapping", None)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits * getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)


def decoder_layers(network: Any) -> list[nn.Module]:
    """The decoder layers, each with both sites. Raises ModelError if they cannot be served."""
    name = type(network).__name__
    if name not in ADAPTED_ARCHITECTURES:
        raise ModelError(
            f"{name} is not among the architectures whose attention and MLP can be adapted "
            f"({', '.join(ADAPTED_ARCHITECTURES)}); use a checkpoint of one of these"
        )
    return list(network.model.layers)


def longest_prompt(config: Any) -> int:
    """How many tokens a prompt may have. With LongRoPE (Phi-3) the original context: beyond it
    the longest prompt of a batch, or vLLM's --max-model-len, changes what all others mean."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return rope["original_max_position_embeddings"]
    return config.max_position_embeddings


def last_tokens(hidden: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
    """The rows [batch, hidden] of `hidden` [batch, longest, hidden] at each last real token."""
    last = torch.tensor([len(ids) - 1 for ids in sequences], device=hidden.device)
    return hidden[torch.arange(len(last), device=hidden.device), last]


@contextmanager
def recorded(model: HookedModel, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Yield [batch, layers, 2, hidden], float32, which the next forward pass over `sequences`
    fills with each site's output at the last token."""
    shape = (len(sequences), model.num_layers, len(SITES), model.hidden_size)
    outputs = torch.zeros(shape, device=model.device)

    def keep(layer: int, site: int) -> Edit:
        def edit(h: Tensor) -> None:
            outputs[:, layer, site] = last_tokens(h, sequences).float()

        return edit

    with _edited(model, keep, torch.ones(model.num_layers, len(SITES), dtype=torch.bool)):
        yield outputs


@contextmanager
def injected(
    model: HookedModel,
    injection: Injection,
    mask: Tensor,
    extent: Extent = "all",
    noise: Noise | None = None,
) -> Iterator[None]:
    """Inject at the sites in `mask` [layers, 2]; differentiable in `injection`.

    At every token, or (`tail`) at those from the start on that a forward pass names.
    """
    scale, shift = injection.scale.to(model.device), injection.shift.to(model.device)

    def adapt(layer: int, site: int) -> Edit:
        def edit(h: Tensor) -> Tensor:
            # [1, width] or [batch, 1, width], against h [batch, tokens, hidden]
            at = (..., layer, site, None, slice(None))
            adapted = inject(h, scale[at].to(h.device), shift[at].to(h.device))
            adapted = noise(adapted) if noise else adapted
            if extent == "all":
                return adapted
            return torch.where(model.in_tail.to(h.device), adapted, h)

        return edit

    with _edited(model, adapt, mask):
        yield


@contextmanager
def _edited(
    model: HookedModel, edit_at: Callable[[int, int], Edit], mask: Tensor
) -> Iterator[None]:
    with ExitStack() as hooks:
        for layer, site in mask.nonzero().tolist():
            module = getattr(model.layers[layer], SITE_MODULES[SITES[site]])
            handle = module.register_forward_hook(_output_hook(edit_at(layer, site)))
            hooks.callback(handle.remove)
        yield


def _output_hook(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return edit(output)
        edited = edit(output[0])  # self_attn returns (output, attention weights)
        return None if edited is None else (edited, *output[1:])

    return hook
