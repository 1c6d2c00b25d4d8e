"""What fitting takes, counted from configs, against what passes hold; and the docs' table."""

import pytest
import torch
from transformers import MistralConfig, Qwen2Config

from bench import calibration_memory
from bench.calibration_memory import SHAPES, TINY, by_size, compared
from calibration.model.memory import Footprint
from tests.documents import DOCUMENTS


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["LLaMA", "Mistral", "Qwen2", "Qwen3"])
def test_layers_save_and_passes_hold_what_is_counted(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, checkpointing: bool
) -> None:
    more = {"Mistral": MistralConfig, "Qwen2": Qwen2Config}
    monkeypatch.setattr(calibration_memory, "TINY", TINY | more)
    told = compared(name, dtype, checkpointing)
    # Numbers that a token has a few of, such as what norms divide by, are not counted.
    assert 0 <= told["layer_saves"] - told["layer_saves_counted"] <= 64
    assert 0.9 < told["peak"] / told["peak_counted"] <= 1


def test_weights_are_counted_without_a_checkpoint() -> None:
    footprint = Footprint.of(SHAPES["8B"], torch.bfloat16)
    assert footprint.weights == 2 * 8_030_261_248  # as its checkpoint has
    assert footprint.layers == 32


def test_the_documents_table_is_what_is_counted() -> None:
    for size, figures in by_size().items():
        assert f"| {size} | {' | '.join(figures)} |" in DOCUMENTS["docs/calibrating.md"]
