"""Token embeddings that already mean something: PCA of the teacher's view of every piece.

Each piece is the teacher's static embedding beside its sentence embedding of the piece alone,
reduced to width - 2; then come the log frequency in the corpora, a unigram prior, and a constant,
which gives the bias-free attention something to hold on to.
They stay frozen in training, so words the corpora lack keep their meaning.
"""

from __future__ import annotations

import torch

ROW_NORM = 1.0


def pca(rows: torch.Tensor, dims: int) -> torch.Tensor:
    """The rows' first `dims` principal components, [rows, dims]."""
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    return centred @ vectors[:, values.argsort(descending=True)[:dims]]


def piece_embeddings(
    static: torch.Tensor, sentence: torch.Tensor, counts: torch.Tensor, width: int
) -> torch.Tensor:
    """[pieces, width], from two views [pieces, 384] of each piece and its corpus count [pieces]."""
    views = [view - view.mean(0) for view in (static.float(), sentence.float())]
    views = [view / view.norm(dim=-1).mean() for view in views]
    meaning = pca(torch.cat(views, dim=-1), width - 2)
    meaning *= ROW_NORM / meaning.norm(dim=-1).mean()
    log_frequency = (counts.float() + 1).log()
    prior = (log_frequency - log_frequency.mean()) / log_frequency.std() * ROW_NORM / 4
    constant = torch.full_like(prior, ROW_NORM / 4)
    return torch.cat([meaning, prior.unsqueeze(-1), constant.unsqueeze(-1)], dim=-1)
