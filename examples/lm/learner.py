"""The model under training: a LLaMA with frozen tied embeddings, its losses and its optimisers.

Knows how a batch becomes losses and how a checkpoint is written and read. Refuses to know where
batches come from.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from lm.batches import Batch
from lm.initial import HEAD, scale_lookup, start_from_averages
from lm.vocabulary import save_tokenizer

TEACHER_WIDTH = 384
LABEL_WEIGHT, VECTOR_WEIGHT, TEXT_WEIGHT = 1.0, 4.0, 0.5


def build_config(vocab_size: int, width: int, layers: int, intermediate: int) -> LlamaConfig:
    """Heads of 64, tied embeddings, 2048 positions."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // HEAD,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Learner(nn.Module):
    """The model, and the training-only head that predicts the teacher's sentence embedding."""

    centre: Tensor

    def __init__(self, config: LlamaConfig, embeddings: Tensor, centre: Tensor, colon: int) -> None:
        super().__init__()
        self.model = LlamaForCausalLM(config)
        self.model.set_attn_implementation("eager")  # on CPU faster than SDPA at these lengths
        self.table().data.copy_(embeddings)
        self.table().requires_grad_(False)
        start_from_averages(
            self.model.model.layers, self.model.model.norm.weight, embeddings[colon]
        )
        self.head = nn.Linear(config.hidden_size, TEACHER_WIDTH, bias=False)
        self.register_buffer("centre", centre)  # [384], the mean sentence embedding

    @torch.no_grad()
    def start_from(self, model: Path, lookup: float, batches: list[Batch]) -> None:
        """Take an exported model's weights, of its lookup only a share, and the best head for them.

        The head is fitted to the states of `batches`; an export does not carry it.
        """
        self.model.load_state_dict(LlamaForCausalLM.from_pretrained(model).state_dict())
        scale_lookup(self.model.model.layers, lookup)
        states = [self._hidden(batch.ids)[batch.label_at].float() for batch in batches]
        aims = torch.cat([self._aim(batch) for batch in batches])
        self.head.weight.copy_(torch.linalg.lstsq(torch.cat(states), aims).solution.T)

    def table(self) -> Tensor:
        """The frozen embeddings, [pieces, width]: input and output share them."""
        return self.model.model.embed_tokens.weight

    def losses(self, batch: Batch, word_ids: Tensor) -> dict[str, Tensor]:
        """Mean losses of a batch; `word_ids` are the content words' pieces."""
        hidden = self._hidden(batch.ids)
        table = self.table().to(hidden.dtype)
        following = batch.ids.flatten()[batch.next_at + 1]
        found = {"text": F.cross_entropy((hidden[batch.next_at] @ table.T).float(), following)}
        if len(batch.label_at):
            asked = hidden[batch.label_at]
            log_probs = (asked @ table.T).float().log_softmax(-1)[:, word_ids]
            counted = batch.words.sum().clamp(min=1)
            found["label"] = -(batch.words * log_probs).sum() / counted
            likeness = F.cosine_similarity(self.head(asked).float(), self._aim(batch))
            found["vector"] = (1 - likeness).mean()
        return found

    def _hidden(self, ids: Tensor) -> Tensor:
        """Last hidden states, [all positions, width]."""
        return self.model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)

    def _aim(self, batch: Batch) -> Tensor:
        """The teacher's centred vectors that the head is to predict."""
        return F.normalize(batch.vectors - self.centre, dim=-1)


def total(losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum that is minimised."""
    weights = {"text": TEXT_WEIGHT, "label": LABEL_WEIGHT, "vector": VECTOR_WEIGHT}
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def build_optimisers(learner: Learner, lr: float, weight_decay: float) -> list[Optimizer]:
    """Muon for the body's matrices, AdamW for the norms and the head."""
    matrices = [p for p in learner.model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in learner.parameters() if p.requires_grad and id(p) not in chosen]
    muon = torch.optim.Muon(
        matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]


def save_checkpoint(
    path: Path, learner: Learner, optimisers: list[Optimizer], progress: Progress
) -> None:
    """Model, optimisers, RNG and counters, atomically."""
    content = {
        "learner": learner.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "rng": torch.get_rng_state(),
        "progress": asdict(progress),
    }
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path, learner: Learner, optimisers: list[Optimizer]) -> Progress:
    """Restore in place; the counters come back."""
    content = torch.load(path, weights_only=True)
    learner.load_state_dict(content["learner"])
    for optimiser, saved in zip(optimisers, content["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    torch.set_rng_state(content["rng"])
    return Progress(**content["progress"])


def export(folder: Path, learner: Learner, tokenizer: PreTrainedTokenizerBase) -> None:
    """The plain Hugging Face model, bf16: loads without any of this code."""
    model = LlamaForCausalLM(learner.model.config)
    model.load_state_dict(learner.model.state_dict())
    model.bfloat16()
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
