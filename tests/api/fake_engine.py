"""A LabelEngine without a model: scores follow from the prompt's tokens by arithmetic."""

import asyncio

import numpy as np

from api.classify.engine import TokenScores

CACHED_TOKENS = 3  # of every prompt


UNADAPTED = "0" * 64  # in place of a digest


def log_probs(digest, prompt_ids, token_ids):
    """Log-softmax of logits in [0, 10] that depend on the task, the prompt and the token, no two
    the same."""
    seed = int(digest[:4], 16) + sum((i + 1) * token for i, token in enumerate(prompt_ids))
    logits = np.array(
        [seed * (token + 1) % 101 / 10 + i / 1000 for i, token in enumerate(token_ids)]
    )
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


def hidden_state(prompt_ids, size):
    """Follows from which tokens there are, so that texts of other words are told apart."""
    waves = np.outer(prompt_ids, np.arange(1, size + 1))
    return np.cos(waves).mean(axis=0).astype(np.float32)


class FakeEngine:
    """Remembers what it was asked; answers NaN for a digest in `unavailable`, as workers do.

    While `held`, it answers nothing; `aborted` counts what was cancelled meanwhile.
    """

    def __init__(self):
        self.unavailable = set()
        self.prompts = []
        self.held = False
        self.aborted = 0

    def refuse(self, task):
        pass

    def requests(self, request):
        return 1

    async def token_scores(self, prompt_ids, request):
        self.prompts.append(prompt_ids)
        try:
            while self.held:
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        digest = request.task.digest if request.task else UNADAPTED
        return [self._scores(digest, prompt_ids, readout) for readout in request.readouts]

    def _scores(self, digest, prompt_ids, readout):
        scores = log_probs(digest, prompt_ids, readout.label_token_ids)
        if digest in self.unavailable:
            scores = np.full_like(scores, np.nan)
        rows = self._row_scores(prompt_ids, readout) if readout.label_rows else None
        hidden = hidden_state(prompt_ids, readout.hidden_size) if readout.hidden_size else None
        return TokenScores(scores, CACHED_TOKENS, rows, hidden)

    def _row_scores(self, prompt_ids, readout):
        if readout.task.digest in self.unavailable:
            return np.full(readout.label_rows, np.nan, dtype=np.float32)
        return log_probs(readout.task.digest, prompt_ids, range(readout.label_rows))
